import errno
import os
import stat
from pathlib import Path

import pytest

from biprop import files


def test_a_file_is_replaced_in_one_step_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_text_atomically(path, "one ±")
    assert path.read_text(encoding="utf-8") == "one ±"
    with pytest.raises(ZeroDivisionError), files.atomic_write(path) as file:
        file.write(b"half")
        assert path.read_text(encoding="utf-8") == "one ±"
        _ = 1 / 0
    assert path.read_text(encoding="utf-8") == "one ±"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_new_files_have_what_the_umask_leaves_and_old_ones_what_they_had(
    umask: int, mode: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        files.write_text_atomically(tmp_path / "new", "x")
        (tmp_path / "old").touch()
        (tmp_path / "old").chmod(0o640)
        files.write_text_atomically(tmp_path / "old", "x")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "old")] == [
        mode,
        0o640,
    ]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_written_through(exists: bool, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    real, middle, link = tmp_path / "far" / "real", tmp_path / "middle", tmp_path / "link"
    if exists:
        real.write_text("old")
    middle.symlink_to(real)
    link.symlink_to("middle")
    files.write_text_atomically(link, "new")
    assert link.is_symlink()
    assert middle.is_symlink()
    assert real.read_text() == "new"
    assert [p.name for p in real.parent.iterdir()] == ["real"]


def test_devices_and_folders_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to(os.devnull)
    with pytest.raises(OSError, match="Not a regular file"):
        files.write_text_atomically(tmp_path / "null", "x")
    with pytest.raises(IsADirectoryError):
        files.write_text_atomically(tmp_path, "x")
    assert not list(tmp_path.parent.glob(".*.unfinished"))


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "none" / "a"
    with pytest.raises(FileNotFoundError) as caught:
        files.write_text_atomically(path, "x")
    assert caught.value.filename == str(path)
    with pytest.raises(OSError, match="No space") as full, files.atomic_write(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert full.value.filename == str(tmp_path / "a")


def test_the_longest_name_that_a_folder_takes(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    files.write_text_atomically(path, "x")
    assert path.read_text() == "x"


def test_file_and_name_are_forced_to_the_disk_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut leaves follows from it: the whole old file, or the whole new one under its
    name.
    """
    path, seen = tmp_path / "a", []

    def fsync(handle: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(handle).st_mode), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_text_atomically(path, "x")
    assert seen == [(False, False), (True, True)]


def test_what_cannot_be_a_name_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    assert files.is_file(tmp_path / "a")
    assert not files.is_file(tmp_path / "b")
    assert not files.is_file(tmp_path / ("x" * 5000))
    assert not files.is_file(tmp_path / "a\0b")
