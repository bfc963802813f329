"""The default networks for tables and series."""

import pytest
import torch

from biprop import UserError
from biprop.config import Config
from biprop.models import defaults
from biprop.models.network import Task, build_network


def test_each_kind_of_data_has_one() -> None:
    assert [defaults.name_for(shape) for shape in ((5,), (2, 9))] == ["MLP", "SeriesCNN"]
    assert defaults.name_for((1, 2, 3, 4)) is None
    for shape in ((5,), (2, 9), (2, 1)):
        name = defaults.name_for(shape)
        assert name
        model = defaults.build(name, {"width": 3, "depth": 2}, 4, shape)
        assert model(torch.randn(6, *shape)).shape == (6, 4)
    weights = [p.shape for p in defaults.build("MLP", None, 4, (5,)).parameters() if p.dim() == 2]
    assert weights == [(256, 5), (256, 256), (4, 256)]
    series = defaults.build("SeriesCNN", None, 4, (2, 16))
    assert series.blocks(torch.randn(1, 2, 16)).shape == (1, 128, 4)


def test_other_data_and_arguments_are_refused() -> None:
    with pytest.raises(UserError, match=r"MLP: is for tables, .* have the shape \[2, 9\]"):
        defaults.build("MLP", None, 4, (2, 9))
    for arguments in ({"width": 0}, {"depth": 9}, {"width": True}, {"heads": 2}):
        with pytest.raises(UserError, match="MLP takes width=1"):
            defaults.build("MLP", arguments, 4, (5,))
    config = Config(arch="cResNet20", prune_rate=0.5)
    with pytest.raises(UserError, match="takes images, and the data have 4 classes of 5 features"):
        build_network(config, Task(4, 5, ()))
