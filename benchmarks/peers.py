"""Other engines for benchmarks/engine.py, each where it can be imported: onnxruntime (and
onnxscript), openvino, deepsparse.

    pip install onnxruntime onnx onnxscript openvino nncf

deepsparse, which is no longer kept up, needs Python 3.11 and an environment of its own, where the
others do not run:

    pip install "numpy<2" "onnx<1.15" "protobuf<4" deepsparse==1.8.0

All run the dense float32 network that `Ticket.to_model` gives, with its zeros; onnxruntime and
OpenVINO also run it in 8 bits (calibrated on random images). DeepSparse reads the zeros.

ONEDNN_MAX_CPU_ISA=AVX2 in the environment holds OpenVINO to AVX2, as it does PyTorch (with
ATEN_CPU_CAPABILITY=avx2); onnxruntime and DeepSparse always take the best instruction set, unless
hide_avx512.py hides it from them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Peer:
    """Another engine.

    Attributes:
        make: from (model, images, threads) to a function that computes the images.
        packages: that it needs; the first one is the engine.
    """

    make: Callable[[torch.nn.Module, torch.Tensor, int], Callable[[], object]]
    packages: tuple[str, ...]

    def missing(self) -> list[str]:
        """Those of its packages that cannot be imported."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


def installed_and_missing() -> list[str]:
    """A line for the engines that take part, with versions, and one for those that cannot."""
    there = [name for name, peer in PEERS.items() if not peer.missing()]
    packages = dict.fromkeys(PEERS[name].packages[0] for name in there)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    absent = [
        f"{name} (pip install {' '.join(peer.missing())})"
        for name, peer in PEERS.items()
        if peer.missing()
    ]
    lines = [f"peers: {', '.join(there) or 'none'} ({versions})" if there else "peers: none"]
    return lines + [f"missing: {', '.join(absent)}"] * bool(absent)


def contestants(
    model: torch.nn.Module, images: torch.Tensor, threads: int
) -> dict[str, Callable[[], object]]:
    """Functions that compute `images`, by the engine's name.

    One that cannot run the network is left out, with its reason.
    """
    runs: dict[str, Callable[[], object]] = {}
    for name, peer in PEERS.items():
        if peer.missing():
            continue
        try:
            with _without_messages():
                runs[name] = peer.make(model, images, threads)
        except Exception as e:  # whatever another engine's exporter raises
            print(f"  {name}: {type(e).__name__}: {str(e).splitlines()[0]:.100}")
    return runs


@contextmanager
def _without_messages() -> Iterator[None]:
    """Hide progress bars and log messages of exporters and quantisers, which are dozens of lines a
    network.
    """
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _onnx(model: torch.nn.Module, images: torch.Tensor) -> bytes:
    program = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def _session(content: bytes, images: torch.Tensor, threads: int) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(content, options, providers=providers)
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, feed)


def _onnxruntime(
    model: torch.nn.Module, images: torch.Tensor, threads: int
) -> Callable[[], object]:
    return _session(_onnx(model, images), images, threads)


def _onnxruntime_int8(
    model: torch.nn.Module, images: torch.Tensor, threads: int
) -> Callable[[], object]:
    """Static quantisation with a scale for each output channel, as its documentation advises."""
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory() as folder:
        floats, integers = Path(folder) / "floats.onnx", Path(folder) / "integers.onnx"
        floats.write_bytes(_onnx(model, images))
        quantization.quantize_static(
            floats, integers, _Calibration(floats, images), per_channel=True, reduce_range=False
        )
        content = integers.read_bytes()
    return _session(content, images, threads)


class _Calibration:
    """Random images for onnxruntime's quantisation, which asks for one batch after the other."""

    def __init__(self, path: Path, images: torch.Tensor) -> None:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        self._feeds = iter([{name: batch} for batch in _random_batches(images)])

    def get_next(self) -> dict[str, Any] | None:
        """The next batch by the input's name; None after the last."""
        return next(self._feeds, None)

    def __len__(self) -> int:
        return _BATCHES


_BATCHES = 8
"""Random batches for calibration."""


def _random_batches(images: torch.Tensor) -> list[Any]:
    shape = tuple(images.shape)
    return [
        np.random.default_rng(i).standard_normal(shape, dtype=np.float32) for i in range(_BATCHES)
    ]


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
    known = nncf.Dataset(_random_batches(images))
    return _compiled(nncf.quantize(network, known), images, threads)


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


PEERS = {
    "onnxruntime": Peer(_onnxruntime, ("onnxruntime", "onnx", "onnxscript")),
    "onnxruntime int8": Peer(_onnxruntime_int8, ("onnxruntime", "onnx", "onnxscript")),
    "openvino": Peer(_openvino, ("openvino",)),
    "openvino int8": Peer(_openvino_int8, ("openvino", "nncf")),
    "deepsparse": Peer(_deepsparse, ("deepsparse", "onnx")),
}
