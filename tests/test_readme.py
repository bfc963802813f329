"""The README is true: its tree, its Python, its links."""

import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()
TREE = re.findall(r"^(\S+) {2,}\S", README.split("## Where everything is")[1].split("```")[1], re.M)


def files() -> list[str]:
    """The files of the repository: what git knows, or all where there is no git."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if not name.startswith(".git")]


def test_every_file_has_its_line_in_the_tree() -> None:
    missing = [
        name for name in files() if not any(fnmatchcase(name, f"{entry}*" if entry.endswith("/") else entry) for entry in TREE)
    ]
    assert missing == []


def test_every_line_of_the_tree_has_its_file() -> None:
    for name in TREE:
        assert list(ROOT.glob(name.rstrip("/"))), name


def test_every_file_of_the_package_has_its_tests() -> None:
    modules = {p.stem if p.stem != "__init__" else p.parent.name for p in (ROOT / "src" / "biprop").rglob("*.py")}
    tested = {p.stem.removeprefix("test_") for p in (ROOT / "tests").glob("test_*.py")}
    covered_elsewhere = {"biprop", "__main__", "plain", "resnet"}  # by test_imports, test_cli, test_models
    assert modules - tested <= covered_elsewhere


def test_the_python_example_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in code


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
