"""Other engines for benchmarks/engine.py, each where it can be imported: onnxruntime (and
onnxscript), openvino, deepsparse.

    pip install onnxruntime onnx onnxscript openvino nncf

deepsparse, which is no longer kept up, needs Python 3.11 and an environment of its own, where the
others do not run:

    pip install "numpy<2" "onnx<1.15" "protobuf<4" deepsparse

All run the dense float32 network that `Ticket.to_model` gives, with its zeros; OpenVINO also runs
it in 8 bits (nncf, calibrated on random images). DeepSparse reads the zeros.
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


def contestants(
    model: torch.nn.Module, images: torch.Tensor, threads: int
) -> dict[str, Callable[[], object]]:
    """Functions that compute `images`, by the engine's name.

    One that cannot run the network is left out, with its reason.
    """
    runs: dict[str, Callable[[], object]] = {}
    for name, package, make in (
        ("onnxruntime", "onnxruntime", _onnxruntime),
        ("openvino", "openvino", _openvino),
        ("openvino int8", "nncf", _openvino_int8),
        ("deepsparse", "deepsparse", _deepsparse),
    ):
        if importlib.util.find_spec(package) is None:
            continue
        try:
            runs[name] = make(model, images, threads)
        except Exception as e:  # whatever another engine's exporter raises
            print(f"  {name}: {type(e).__name__}: {str(e).splitlines()[0]:.100}")
    return runs


def _onnx(model: torch.nn.Module, images: torch.Tensor) -> bytes:
    program = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def _onnxruntime(
    model: torch.nn.Module, images: torch.Tensor, threads: int
) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        _onnx(model, images), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, feed)


def _compiled(network: Any, images: torch.Tensor, threads: int) -> Callable[[], object]:
    import openvino  # type: ignore[import-not-found]

    hints = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(network, "CPU", hints).create_infer_request()
    array = images.numpy()
    return lambda: request.infer([array], share_inputs=True)


def _openvino(model: torch.nn.Module, images: torch.Tensor, threads: int) -> Callable[[], object]:
    import openvino

    return _compiled(openvino.convert_model(model, example_input=images), images, threads)


def _openvino_int8(
    model: torch.nn.Module, images: torch.Tensor, threads: int
) -> Callable[[], object]:
    import nncf  # type: ignore[import-not-found]
    import openvino

    network = openvino.convert_model(model, example_input=images)
    known = [
        np.random.default_rng(i).standard_normal(tuple(images.shape), dtype=np.float32)
        for i in range(8)
    ]
    return _compiled(nncf.quantize(network, nncf.Dataset(known)), images, threads)


def _deepsparse(model: torch.nn.Module, images: torch.Tensor, threads: int) -> Callable[[], object]:
    import deepsparse  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the newer exporter needs a newer onnx than deepsparse can read
        path = str(Path(folder) / "network.onnx")
        torch.onnx.export(model, (images,), path, dynamo=False, opset_version=13)
        engine = deepsparse.compile_model(path, batch_size=len(images), num_cores=threads)
    return lambda: engine.run([images.numpy()])
