"""Imports run one way, and what must be light is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "src" / "biprop"

LAYERS = (
    "errors files gate interrupts losses names optim rng severities sync_batchnorm yaml_loader",
    "archive config container corruptions data.labels data.pickles data.splits init native pictures plans screen",
    "binarize coding data.augment data.layouts distributed flags models.plain models.resnet runs",
    "data.augmix data.items evaluate layers log prune ticket",
    "data.stream engine.graph models subnetwork",
    "data.sources engine.lower engine.reference network",
    "ancestor data engine",
    "checkpoint deck speed",
    "cli_engine export inspection robustness train",
    "accuracy plots sweep",
    "assemble",
    "cli_robustness",
    "__init__ cli",
    "__main__",
)
"""From the ground up: a module imports only from layers below its own, wherever in the file, for type checkers only or not."""
UPWARDS = {
    ("ticket", "export"): "Ticket.from_model and to_model, when called",
    ("ticket", "subnetwork"): "for type checkers only",
    ("deck", "export"): "Deck.to_model, when called",
}
"""What runs the other way today, and why. An entry goes as soon as its import does."""
TORCH_FREE = (
    "coding", "ticket", "inspection", "native", "distributed", "rng", "config", "errors", "cli", "cli_engine", "sweep",
    "plans", "pictures", "speed", "container", "deck", "gate", "flags", "cli_robustness", "severities", "plots",
    "screen", "interrupts", "files", "runs",
    "engine", "engine.graph", "engine.lower", "engine.reference",
)  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def own_imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    package = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        parents = package[: len(package) - node.level + 1]
        source = ".".join([*parents, *(node.module or "").split(".")]).strip(".")
        for alias in node.names:
            if alias.name == "__version__":
                continue
            submodule = f"{source}.{alias.name}".strip(".")
            found.add(submodule if submodule in MODULES else source or "__init__")
    return found - {module_name(path)}


def imported_at_its_head(path: Path) -> set[str]:
    """The packages of others that a file imports when it is imported."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found


def test_imports_run_downwards() -> None:
    layer = {name: height for height, names in enumerate(LAYERS) for name in names.split()}
    assert layer.keys() == MODULES.keys(), "LAYERS names every module once"
    upwards = {
        (name, other)
        for name, path in MODULES.items()
        for other in own_imports(path)
        if layer[other] >= layer[name]
    }
    assert upwards == UPWARDS.keys()


@pytest.mark.parametrize("name", MODULES)
def test_what_must_be_light_is_light(name: str) -> None:
    others = imported_at_its_head(MODULES[name])
    assert "torchvision" not in others
    if name in TORCH_FREE:
        assert "torch" not in others


def test_import_and_help_load_nothing_heavy() -> None:
    code = (
        "import sys, biprop, biprop.cli\n"
        "try: biprop.cli.main(['find', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'yaml', 'rich', 'PIL', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_exist() -> None:
    import biprop

    assert all(getattr(biprop, name) is not None for name in biprop.__all__)
    assert set(dir(biprop)) == set(biprop.__all__)
    with pytest.raises(AttributeError, match="no attribute 'find'"):
        _ = biprop.find
