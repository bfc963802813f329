"""Imports run one way, and what must be light is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "src" / "biprop"

# What each module of the package may import of it. A module may also use `errors`; `cli` may use everything.
ALLOWED: dict[str, set[str]] = {
    "__init__": {
        "__all__",
        "deck",
        "engine",
        "errors",
        "layers",
        "subnetwork",
        "ticket",
    },  # for type checkers only; at run time when first used
    "__main__": {"cli"},
    "errors": set(),
    "rng": set(),
    "config": set(),
    "pictures": set(),
    "cli_engine": {"deck", "engine", "flags", "log", "pictures", "speed", "ticket"},
    "cli_robustness": {
        "accuracy",
        "assemble",
        "cli_engine",
        "config",
        "data",
        "deck",
        "engine",
        "export",
        "files",
        "flags",
        "inspection",
        "log",
        "plots",
        "robustness",
        "severities",
        "ticket",
        "train",
    },
    "flags": {"config"},
    "speed": {"engine", "ticket"},
    "binarize": {"native"},
    "prune": {"binarize", "native"},
    "init": {"rng"},
    "layers": {"binarize"},
    "subnetwork": {"binarize", "prune", "init", "layers"},
    "plans": set(),
    "models": {"layers", "plans"},
    "models.plain": {"plans"},
    "models.resnet": {"plans"},
    "data": {"config", "distributed", "rng"},
    "data.sources": {"rng"},
    "data.items": {"pictures"},
    "data.stream": {"pictures"},
    "data.augment": {"native"},
    "data.augmix": {"native"},
    "network": {"models", "rng", "config", "init", "layers", "subnetwork"},
    "ancestor": {"config", "network", "plans"},
    "interrupts": set(),
    "runs": {"__version__", "config", "files"},
    "sync_batchnorm": set(),
    "checkpoint": {"ancestor", "config", "files", "network"},
    "optim": set(),
    "distributed": set(),
    "evaluate": {"distributed"},
    "log": {"files", "runs"},
    "losses": set(),
    "files": set(),
    "native": set(),
    "coding": {"native"},
    "container": {"files"},
    "ticket": {
        "coding",
        "container",
        "files",
        "rng",
        "export",
        "subnetwork",
    },  # export when asked for a model, subnetwork for type checkers
    "gate": set(),
    "deck": {"container", "engine", "export", "files", "gate", "ticket"},  # export when asked for a model
    "assemble": {"accuracy", "config", "data", "deck", "gate", "log", "ticket"},
    "severities": set(),
    "corruptions": {"severities"},
    "robustness": {"corruptions", "data", "deck", "evaluate", "gate", "pictures", "severities"},
    "plots": {"files", "robustness"},
    "inspection": {"coding", "deck", "ticket"},
    "engine": {"files", "native", "ticket"},
    "engine.graph": {"plans", "ticket"},
    "engine.lower": {"ticket"},
    "engine.reference": {"ticket"},
    "export": {
        "__version__",
        "checkpoint",
        "coding",
        "config",
        "deck",
        "gate",
        "layers",
        "models",
        "rng",
        "runs",
        "subnetwork",
        "ticket",
    },
    "accuracy": {"checkpoint", "config", "data", "engine", "evaluate", "log", "network", "subnetwork", "ticket", "train"},
    "sweep": {"checkpoint", "config", "data", "files", "runs", "train"},
    "train": {
        "checkpoint",
        "config",
        "data",
        "distributed",
        "evaluate",
        "files",
        "interrupts",
        "log",
        "losses",
        "network",
        "optim",
        "prune",
        "runs",
        "subnetwork",
        "sync_batchnorm",
    },
}
TORCH_FREE = (
    "coding", "ticket", "inspection", "native", "distributed", "rng", "config", "errors", "cli", "cli_engine", "sweep",
    "plans", "pictures", "speed", "container", "deck", "gate", "flags", "cli_robustness", "severities", "plots",
    "engine", "engine.graph", "engine.lower", "engine.reference",
)  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(path: Path) -> tuple[set[str], set[str]]:
    """(modules of the package, other top-level modules) that a file imports at its head."""
    own, others = set(), set()
    depth = len(path.relative_to(PACKAGE).parts) - 1
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            if depth and node.level == 1:
                continue  # among the files of a subpackage
            names = [node.module] if node.module else [a.name for a in node.names]
            own |= {name.partition(".")[0] for name in names}
    for node in tree.body:
        if isinstance(node, ast.Import):
            others |= {a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            others.add(str(node.module).partition(".")[0])
    return own - {"__version__"}, others


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_imports_run_one_way(path: Path) -> None:
    name = module_name(path)
    own, others = imports(path)
    if name != "cli":
        assert name in ALLOWED, f"say in ALLOWED what {name} may import"
        assert own <= ALLOWED[name] | {"errors"}
    if name in TORCH_FREE:
        assert "torch" not in others
    assert "torchvision" not in others


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
