"""The list of faults for benchmarks/mutants.py fits the package and its tests; `make mutants` tries
them.
"""

import importlib.util
import sys
from pathlib import Path

import pytest
from conftest import ROOT

specification = importlib.util.spec_from_file_location(
    "mutants", ROOT / "benchmarks" / "mutants.py"
)
assert specification
assert specification.loader
mutants = importlib.util.module_from_spec(specification)
sys.modules["mutants"] = mutants
specification.loader.exec_module(mutants)

MUTANTS = mutants.read(mutants.LIST)
PACKAGE = ROOT / "src" / "biprop"


def test_each_changes_its_file_in_one_place() -> None:
    counts = {
        str(mutant): (PACKAGE / mutant.file).read_text().count(mutant.old) for mutant in MUTANTS
    }
    assert {mutant: count for mutant, count in counts.items() if count != 1} == {}
    assert len(counts) == len(MUTANTS) >= 45
    assert all(mutant.old != mutant.new for mutant in MUTANTS)


def test_each_names_tests_that_there_are() -> None:
    for node_id in {node_id for mutant in MUTANTS for node_id in mutant.node_ids}:
        file, _, name = node_id.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text() if name else (ROOT / file).is_file(), (
            node_id
        )


def test_every_file_of_the_package_has_some() -> None:
    without = {"__main__.py"}  # a call
    paths = (path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    files = {path.relative_to(PACKAGE).as_posix() for path in paths}
    assert files - {mutant.file for mutant in MUTANTS} == without


def test_a_list_is_blocks_of_pairs(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(
        "# note\n\na.py  test_a.py::test_b test_c.py\n  - x = 1\n  + x = 2\n  - , y\n  +\n"
    )
    first, second = mutants.read(tmp_path / "x.txt")
    assert first == mutants.Mutant("a.py", "x = 1", "x = 2", "test_a.py::test_b test_c.py")
    assert (second.old, second.new, second.node_ids) == (
        ", y",
        "",
        ["tests/test_a.py::test_b", "tests/test_c.py"],
    )
    (tmp_path / "x.txt").write_text("a.py\n")
    with pytest.raises(AssertionError, match=r"x\.txt, line 1"):
        mutants.read(tmp_path / "x.txt")


def test_an_unmutated_tree_is_the_tree(tmp_path: Path) -> None:
    tree = mutants.Tree(tmp_path)
    mutant = next(mutant for mutant in MUTANTS if mutant.file == "search/losses.py")
    before = tree.path(mutant).read_bytes()
    with tree.mutated(mutant):
        assert tree.path(mutant).read_text().count(mutant.new) >= 1
        assert tree.path(mutant).read_bytes() != before
    assert tree.path(mutant).read_bytes() == before == (PACKAGE / mutant.file).read_bytes()
