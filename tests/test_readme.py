"""The README is true: its tree, its Python, the output that it shows; test_docs.py has links."""

import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import readme
from conftest import ROOT

SHORT = ["--epochs", "5", "--low-data", "0.2"]
README = (ROOT / "README.md").read_text()
LISTING = README.split("## Where everything is")[1].split("```text")[1].split("```")[0]
TREE = re.findall(r"^(\S+) {2,}\S", LISTING, re.M)


def files() -> list[str]:
    """The files of the repository: what git knows, or all where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if not name.startswith(".git")]


def test_every_file_has_its_line_in_the_tree() -> None:
    missing = [
        name
        for name in files()
        if not any(
            fnmatchcase(name, f"{entry}*" if entry.endswith("/") else entry) for entry in TREE
        )
    ]
    assert missing == []


def test_every_line_of_the_tree_has_its_file() -> None:
    for name in TREE:
        assert list(ROOT.glob(name.rstrip("/"))), name


def test_the_tree_is_short() -> None:
    """The list file by file is in docs/architecture.md, held by test_docs.py."""
    assert len(TREE) < 35


def test_every_file_of_the_package_has_its_tests() -> None:
    """test_<file>.py, test_<package>_<file>.py or test_<package>.py."""
    package = ROOT / "src" / "biprop"
    modules = [path.relative_to(package) for path in package.rglob("*.py")]
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    untested = {
        str(module)
        for module in modules
        if not {module.stem, "_".join(module.with_suffix("").parts), *module.parts[:-1]} & tested
    }
    assert untested == {"__init__.py", "__main__.py"}  # by test_imports, test_cli


def test_the_python_example_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in code


def shown_blocks() -> list[str]:
    """README.md's blocks of commands and what they print."""
    return readme.BLOCK.findall(README)


@pytest.fixture
def _folder_with_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    readme.write_stand_ins()


@pytest.mark.usefixtures("_folder_with_digits")
def test_the_program_prints_what_the_page_shows() -> None:
    """Words, not numbers: its search is a short one here. The pages' later blocks take longer."""
    demo, pretrained, _, ticket, *_ = shown_blocks()
    for block in (demo, pretrained, ticket):
        assert readme.renewed_block(block, SHORT).count("\n$ ") == block.count("\n$ ")


@pytest.mark.slow
@pytest.mark.usefixtures("_folder_with_digits")
def test_the_program_prints_all_that_the_page_shows() -> None:
    for block in shown_blocks():
        readme.renewed_block(block, SHORT)


def test_what_the_page_shows_and_the_program_does_not_print_is_found() -> None:
    shown = ["epoch 1/9  loss 0.5  best", "...", "accuracy 97.2 %  (avx512, 2 threads)"]
    printed = ["epoch 1/3  loss 0.7", "epoch 2/3  loss 0.6", "accuracy 1 %  (amx, 1 thread)"]
    assert readme.renewed(shown, printed) == [printed[0], "...", printed[2]]
    with pytest.raises(
        readme.Differs, match="shows 'precision 97 %'; the program prints 'nothing like it'"
    ):
        readme.renewed([*shown[:2], "precision 97 %"], printed)
    with pytest.raises(readme.Differs, match="goes on with 'accuracy 1 %"):
        readme.renewed([shown[0], shown[0]], printed)
