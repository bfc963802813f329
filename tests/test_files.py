from pathlib import Path

import pytest

from biprop import files


def test_a_file_is_replaced_in_one_step_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.replace_text(path, "one ±")
    assert path.read_text(encoding="utf-8") == "one ±"
    with pytest.raises(ZeroDivisionError), files.replacing(path) as file:
        file.write(b"half")
        assert path.read_text(encoding="utf-8") == "one ±"
        _ = 1 / 0
    assert path.read_text(encoding="utf-8") == "one ±"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_cannot_be_a_name_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    assert files.is_file(tmp_path / "a")
    assert not files.is_file(tmp_path / "b")
    assert not files.is_file(tmp_path / ("x" * 5000))
    assert not files.is_file(tmp_path / "a\0b")
