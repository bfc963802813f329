import pytest
import torch

from biprop import config
from biprop.distributed import ALONE
from biprop.models.network import Task, build_network
from biprop.search import forward
from biprop.search.forward import TrainingForward, has_fast_bfloat16


@pytest.mark.parametrize("feature", [None, "avx2", "avx512_bf16", "amx_bf16"])
def test_bfloat16_where_the_processor_has_it(
    feature: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = {name: name == feature for name in ("avx2", "avx512_bf16", "amx_bf16")}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    has_it = feature in ("avx512_bf16", "amx_bf16")
    assert has_fast_bfloat16(torch.device("cpu")) == has_it
    assert not has_fast_bfloat16(torch.device("meta"))

    dtypes: list[torch.dtype] = []
    options = config.resolve("digits", {"amp": "auto", "width_mult": "0.25"})[0]
    network = build_network(options, Task(10, 1, (32, 32)))
    network.model.convs[0].register_forward_hook(  # type: ignore[union-attr, operator]
        lambda module, inputs, output: dtypes.append(output.dtype)
    )
    training = TrainingForward(network, options, torch.device("cpu"), ALONE)
    logits = training.logits(torch.rand(4, 1, 32, 32))
    assert dtypes == [torch.bfloat16 if has_it else torch.float32]
    assert logits.dtype == torch.float32


def test_the_features_are_names_that_pytorch_knows() -> None:
    known = torch.cpu.get_capabilities()
    if known.get("architecture") != "x86_64":
        pytest.skip("the features are of x86 processors")
    assert set(forward.BFLOAT16_INSTRUCTIONS) <= set(known)
