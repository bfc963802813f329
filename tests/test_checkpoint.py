import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from biprop import UserError, checkpoint, models


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was-here"),))


def test_save_replaces_in_one_step_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    checkpoint.save(path, {"arch": "x", "state_dict": {"w": torch.ones(2)}})
    with pytest.raises(AttributeError):  # a lambda cannot be written: the old file stays
        checkpoint.save(path, {"arch": lambda: None})
    assert checkpoint.load(path)["state_dict"]["w"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.state"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_checkpoint_that_carries_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"arch": "Conv4", "state_dict": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "raw.pth"):
        with pytest.raises(UserError, match="refused: not a plain checkpoint") as error:
            checkpoint.load(tmp_path / name)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "was-here").exists()


def test_missing_truncated_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none.pth")
    path = tmp_path / "a.pth"
    torch.save({"arch": "x", "state_dict": {"w": torch.ones(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="damaged or truncated"):
        checkpoint.load(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(UserError, match="not a checkpoint of a network"):
        checkpoint.load(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"damaged or truncated|refused"):
        checkpoint.load(path)


def test_a_state_of_another_network_lists_the_difference() -> None:
    model = models.build("Conv2")
    with pytest.raises(UserError, match=r"x\.pth: a checkpoint of another network: lacks convs.0.weight; lacks .* and 5 more"):
        checkpoint.load_state(model, {f"other.{i}": torch.ones(1) for i in range(4)}, "x.pth")
    state = model.state_dict()
    state["linear.4.weight"] = torch.ones(7, 256, 1, 1)
    with pytest.raises(UserError, match=r"linear.4.weight is \(7, 256, 1, 1\), not \(10, 256, 1, 1\)$"):
        checkpoint.load_state(model, state, "x.pth")


def test_data_parallel_prefixes_are_stripped() -> None:
    assert checkpoint.strip_prefixes({"module.a": 1, "module.b": 2}) == {"a": 1, "b": 2}
    assert checkpoint.strip_prefixes({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}
