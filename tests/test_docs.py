"""The documentation is true: its links, the files and functions that it names, its code blocks, the
API reference, and the steps of docs/architecture.md.
"""

import ast
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import readme
import torch
from conftest import ROOT, make_narrow, write_cifar_parquet
from test_imports import LAYERS
from torch import Tensor

import biprop
from biprop import Engine, Ticket, config, convert
from biprop.cli.parser import Parser, add_options, overrides
from biprop.data.dataset import DataSet, Recipe
from biprop.data.loading import recipe_of
from biprop.data.sources import Images, Source, mean_and_std
from biprop.models import plans
from biprop.models.build import build
from biprop.robustness import severities
from biprop.robustness.corruptions import Draws, apply, corrupt

PACKAGE = ROOT / "src" / "biprop"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob(".github/**/*.md")])
REFERENCE = [page for page in PAGES if page.parent.name != "log" and page.name != "CHANGELOG.md"]
"""Pages about the present, not the past."""
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()

SOURCE_FILE = r"[\w./*-]+\.(?:py|cpp|h)"
NAMED = re.compile(rf"((?:`[\w.]+`(?:,| and)?\s+)+)\(`({SOURCE_FILE})`")
"""Names, and in parentheses the file that defines them: `load` (`data/loading.py`)."""


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_resolve(page: Path) -> None:
    for link, path, anchor in re.findall(r"\]\((([^)#:]*)(?:#([^)]*))?)\)", page.read_text()):
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, fresh = set[Path](), {ROOT / "README.md"}
    while fresh:
        page = fresh.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", page.read_text())
        fresh |= {(page.parent / link).resolve() for link in links} - reached
    assert not {page for page in PAGES if page.is_relative_to(ROOT / "docs")} - reached


def file_of(path: str) -> Path:
    """A path as documentation writes it: from the repository's root, or from the package."""
    return next((base / path for base in (ROOT, PACKAGE) if (base / path).exists()), ROOT / path)


@cache
def definitions(file: Path) -> set[str]:
    """What a source file defines: functions, classes, `Class.method` and module-level names."""
    if file.suffix != ".py":
        return set(re.findall(r"\w+", file.read_text()))
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [member for member in node.body if isinstance(member, ast.FunctionDef)]
            names |= {f"{node.name}.{method.name}" for method in methods}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_every_function_named_is_defined_in_its_file() -> None:
    mentions = NAMED.findall(ARCHITECTURE)
    assert len(mentions) > 40
    missing = [
        f"{name} ({path})"
        for names, path in mentions
        for name in re.findall(r"`([\w.]+)`", names)
        if not file_of(path).exists() or name not in definitions(file_of(path))
    ]
    assert missing == []


def test_every_path_of_the_architecture_exists() -> None:
    paths = re.findall(rf"`({SOURCE_FILE}|[\w/]+/)`", ARCHITECTURE)
    assert [path for path in paths if not file_of(path).exists()] == []


@pytest.mark.parametrize("page", REFERENCE, ids=relative)
def test_source_files_that_a_page_names_exist(page: Path) -> None:
    files = [f"/{file.relative_to(ROOT)}" for file in ROOT.glob("[!.]*/**/*.*")]
    files += [f"/{file.name}" for file in ROOT.iterdir()]
    named = set(re.findall(r"`([\w./-]+\.(?:py|cpp|h|c)|\w+/\w+\.sh)`", page.read_text()))
    assert not {name for name in named if not any(file.endswith(f"/{name}") for file in files)}


def resolve(dotted: str) -> object:
    """The value of a name such as ".ticket.Layer", relative to the package."""
    names = dotted.strip(".").split(".")
    value = importlib.import_module("biprop")
    for place, name in enumerate(names):
        if not hasattr(value, name):  # a module that nothing has imported yet
            importlib.import_module(".".join(["biprop", *names[: place + 1]]))
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("page", REFERENCE, ids=relative)
def test_python_names_that_a_page_mentions_exist(page: Path) -> None:
    for dotted in re.findall(r"\bbiprop((?:\.[A-Za-z_]\w*)+)\(", page.read_text()):
        resolve(dotted)


def listed_files() -> set[str]:
    """The files of the list at the end of the architecture; `*` stands for any characters."""
    block = ARCHITECTURE.split("## Every source file")[1].split("```")[1]
    folder, found = "", set[str]()
    for line in block.strip().splitlines():
        if not line.startswith(" "):
            folder = line
            continue
        name = line.split()[0]
        matches = {relative(path) for path in (ROOT / folder).glob(name)}
        assert matches, f"{folder}{name}"
        found |= matches
    return found


def test_every_source_file_has_its_phrase() -> None:
    python = {relative(path) for path in PACKAGE.rglob("*.py")}
    core = {relative(path) for path in (ROOT / "csrc").rglob("*.*")}
    scripts = {relative(path) for path in PACKAGE.rglob("*.js")}
    assert python | core | scripts == listed_files() - {"src/biprop/data/digits.npz"}


def test_every_package_has_its_row() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == set(re.findall(r"^\| `(\w+)/` \|", ARCHITECTURE, re.M))


def test_the_picture_has_the_layers_of_the_imports() -> None:
    picture = ARCHITECTURE.split("```")[1].strip().splitlines()
    rows = [set(line[:52].split()) for line in picture]  # what a row is for comes after that
    assert rows == [set(layer.split()) for layer in reversed(LAYERS)]


# Code blocks. README.md has its own tests, in test_readme.py.

NOT_RUN = {
    "make ": "installs",
    "pip install": "installs",
    "hf auth": "asks for a password",
    "USER/REPO": "a repository of the Hub",
    "rb.py": "needs RobustBench",
    "--multigpu": "needs GPUs",
    "--resume": "needs an interrupted run",
    "torchrun": "a launcher of processes",
    "srun": "a launcher of processes",
    "jsrun": "a launcher of processes",
    "mpirun": "a launcher of processes",
    "#SBATCH": "a line for SLURM",
    "tensorboard": "runs until it is stopped",
    "scripts/cifar10_grid.sh DIR\n": "48 searches",
    "--corrupted": "needs the published images",
    "--reference": "needs results of another network",
}
"""A part of a command that is not run -> why. `biprop find` still has to accept its options."""
if not list(PACKAGE.glob("web/*.wasm")):
    NOT_RUN["biprop web"] = "needs what make wasm makes"

QUICK = ("guides/own-network.md", "guides/robustness.md", "guides/small-devices.md")
"""Guides whose blocks run in seconds."""
SEARCH_OF_SECONDS = ("--epochs", "1", "--low-data", "0.5")
LANGUAGES = {"sh", "console", "python", "c", "text", "{eval-rst}", "{toctree}"}
CODED = [page for page in readme.PAGES if readme.blocks(page)]


def is_quick(page: Path) -> bool:
    return relative(page).removeprefix("docs/") in QUICK


def is_run(line: str) -> bool:
    """Whether a command is run, and not only its options are checked."""
    return not any(part in f"{line}\n" for part in NOT_RUN)


def check_options(line: str) -> None:
    """`biprop find` accepts the options of a command that is not run."""
    if re.match(r"(\.venv/bin/)?biprop find ", line) and "..." not in line:
        without = re.sub(r" --(resume|multigpu) \S+", "", line.split("#")[0])
        readme.run(f"{without} --print-config")


def run_block(block: readme.Block, names: dict[str, object]) -> None:
    """Run a code block in the working directory; `names` are the variables of the page's Python."""
    if block.language == "python" and not readme.file_of(block):
        readme.run_python(block, names)
    elif block.language == "console":
        readme.renewed_block(block.text, SEARCH_OF_SECONDS, is_run)
    elif block.language == "sh":
        lines = readme.lines_of(block.text)
        for line in lines:
            if not is_run(line):
                check_options(line)
        readme.run_script([line for line in lines if is_run(line)], SEARCH_OF_SECONDS)


def write_run(source: Path, name: str) -> None:
    """A run of the digits, under the name that a page gives it."""
    shutil.copytree(source, Path("runs/digits/prune-rate=0.2") / name)


def write_networks() -> None:
    """Networks of the user's own, by the names that pages give them."""
    network = """import torch

def MyNet(num_classes, in_channels):
    convolution = torch.nn.Conv2d(in_channels, 8, 3, stride=2)
    return torch.nn.Sequential(
        convolution, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(8, num_classes),
    )

def Net():
    return MyNet(10, 3)
"""
    names: dict[str, Any] = {}
    exec(network, names)
    for file in ("my_networks.py", "net.py"):
        Path(file).write_text(network)
    torch.save(names["Net"]().state_dict(), "net.pth")


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found_run: Path
) -> Iterator[dict[str, object]]:
    """The working directory of a page, with all that it takes as given; gives its variables."""
    monkeypatch.chdir(tmp_path)
    readme.write_stand_ins()
    write_cifar_parquet(Path("DIR"), train=150, test=30)
    write_run(found_run, "find")
    write_run(found_run, "mix")
    shutil.copy("pretrained/cifar10-small.mpt", "NAME.mpt")
    write_networks()
    samples, labels = np.random.default_rng(0).random((60, 8)), np.arange(60) % 3
    np.savez("measurements.npz", X=samples, y=labels)
    shutil.copy(found_run.parents[2] / "results.csv", "runs/results.csv")
    for name in ("WidePreActResNet", "cResNet18", "VGG_Small"):
        make_narrow(monkeypatch, name)
    yield {"__name__": "page", "numpy": np, "samples": samples, "labels": labels}


@pytest.mark.parametrize(
    "block", [b for page in readme.PAGES for b in readme.blocks(page)], ids=str
)
def test_a_block_is_of_a_language_that_is_run(block: readme.Block) -> None:
    assert block.language in LANGUAGES
    if block.language == "text":
        assert not re.search(r"^(\$|python|pip|import|from|make) ", block.text, re.M)


@pytest.mark.parametrize("page", [page for page in CODED if is_quick(page)], ids=relative)
def test_its_code_blocks_run(page: Path, folder: dict[str, object]) -> None:
    readme.write_sources(page)
    for block in readme.blocks(page):
        run_block(block, folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in CODED if not is_quick(page)], ids=relative)
def test_the_code_blocks_of_longer_pages_run(page: Path, folder: dict[str, object]) -> None:
    readme.write_sources(page)
    for block in readme.blocks(page):
        if page != readme.README or block.language != "console":  # those: test_readme.py
            run_block(block, folder)


# The table of docs/guides/reproduce.md


REPRODUCE = (ROOT / "docs" / "guides" / "reproduce.md").read_text()
ROWS = re.findall(r"^\| (.*) \| \S+ % \| `(--config \S+ .*)` \|$", REPRODUCE, re.M)


@pytest.mark.parametrize(("row", "options"), ROWS)
def test_a_row_of_the_paper_has_its_configuration(row: str, options: str) -> None:
    printed = readme.run(f"biprop find --data DIR --select-on test {options} --print-config")
    values = dict(line.split(": ", 1) for line in printed if ": " in line)
    assert values["select_on"] == "test"
    assert ("batch norm trained" in row) == (values["learn_batchnorm"] == "true")
    if pruned := re.search(r"(\d+) % pruned", row):
        assert float(values["prune_rate"]) == pytest.approx(1 - int(pruned[1]) / 100)
        assert values["set"] == ("CIFAR10" if "CIFAR-10" in row else "ImageNet")


def test_the_table_has_all_rows() -> None:
    assert len(ROWS) == 9


# The API reference

API = (ROOT / "docs" / "api.md").read_text()
DOCUMENTED = re.findall(r"^\.\. auto\w+:: ([\w.]+)", API, re.M)


def test_the_reference_has_every_public_name() -> None:
    names = [name for name in biprop.__all__ if callable(getattr(biprop, name))]  # not modules
    assert {f"biprop.{name}" for name in names} <= set(DOCUMENTED)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_name_of_the_reference_exists_and_is_described(name: str) -> None:
    assert resolve(name.removeprefix("biprop")).__doc__


@pytest.mark.parametrize("module", sorted(PACKAGE.rglob("*.py")), ids=relative)
def test_names_that_docstrings_cite_exist(module: Path) -> None:
    for dotted in re.findall(r"`biprop((?:\.\w+)+)`", module.read_text()):
        resolve(dotted)


@pytest.mark.slow
def test_sphinx_has_no_warnings(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="needs pip install '.[docs]'")
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--conf-dir", "docs"]
    command = [sys.executable, "-m", "sphinx", *options, ".", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "biprop.convert" in (tmp_path / "docs" / "api.html").read_text()


# The steps of "How to add ..."


def test_add_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plans.PLAIN, "Tiny", plans.PlainPlan("c8 B R M", "c"))
    monkeypatch.setattr(plans, "NETWORKS", (*plans.NETWORKS, "Tiny"))
    facts = {"num_classes": 3, "channels": 1, "input_size": [8, 8]}
    network = {
        "name": "Tiny", "bn_type": "NonAffineBatchNorm", "width_mult": 1.0, "head_bias": False,
        "ancestor": False,
    }  # fmt: skip
    model = build("Tiny", num_classes=3, channels=1, input_size=(8, 8))
    subnetwork = convert(model, density=0.5, seed=0)
    ticket = Ticket.from_model(model, subnetwork, network=network | facts, input_size=(1, 8, 8))
    images = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        expected = model.eval()(images).numpy()
    np.testing.assert_allclose(Engine(ticket).run(images.numpy()), expected, atol=1e-5)


def test_add_a_data_set() -> None:
    def stripes() -> Source:
        labels = torch.arange(60) % 2
        images = torch.zeros(60, 1, 8, 8, dtype=torch.uint8)
        images[labels == 1, :, ::2] = 255
        split = Images(images, labels)
        return Source(split, split, ["plain", "striped"], *mean_and_std(images), augment="none")

    data = DataSet(stripes(), recipe=Recipe())
    images, labels = next(data.training_batches(16, seed=0, epoch=0))
    assert images.shape == (16, 1, 8, 8)
    assert torch.equal(images[:, 0].std(dim=(1, 2)) > 0.5, labels == 1)


def test_add_a_corruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def darkness(images: Tensor, share: float, draws: Draws) -> Tensor:
        return images.double() * (1 - share)

    for table in (severities.CIFAR, severities.TINY_IMAGENET, severities.IMAGENET):
        monkeypatch.setitem(table, "darkness", (0.1, 0.2, 0.3, 0.4, 0.5))
    monkeypatch.setattr(apply, "EXTRA", (*severities.EXTRA, "darkness"))
    monkeypatch.setitem(apply._FUNCTIONS, "darkness", darkness)
    images = torch.full((2, 3, 32, 32), 200, dtype=torch.uint8)
    assert torch.equal(corrupt(images, "darkness", 5), images // 2)


def test_the_path_of_a_flag() -> None:
    parser = Parser()
    add_options(parser)
    arguments = parser.parse_args(["--augmix", "--aug-severity", "5"])
    resolved, _ = config.resolve(None, overrides(arguments))
    method = recipe_of(resolved).augmix
    assert method is not None
    assert method.severity == config.as_dict(resolved)["aug_severity"] == 5
