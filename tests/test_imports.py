"""Imports run one way, and what must be light is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "src" / "biprop"

LAYERS = (
    "errors files interrupts names rng",
    "config hub images native screen",
    "npz",
    "console distributed runs subnetwork",
    "data models",
    "checkpoint ticket",
    "engine",
    "evaluation export",
    "deck search",
    "robustness",
    "report",
    "web",
    "__init__ cli",
    "__main__",
)
"""Packages from the ground up: each imports only from layers below its own, wherever in the file,
for type checkers only or not. Inside a package the order of its files is free of circles."""
TORCH_FREE = {
    *(
        "cli",
        "config",
        "console",
        "engine",
        "errors",
        "export",
        "files",
        "hub",
        "images",
        "interrupts",
        "names",
    ),
    *("native", "npz", "report", "rng", "runs", "screen", "web"),
    *("distributed.group", "distributed.launchers", "distributed.spawn"),
    *(
        "ticket.ticket",
        "ticket.layer",
        "ticket.state",
        "ticket.container",
        "ticket.report",
        "ticket.parse_layers",
    ),
    *("ticket.entropy_coding", "ticket.rans"),
    *("deck.deck", "deck.gate", "deck.report"),
    *("models.plans", "models.graph", "models.operations", "ticket.fold"),
    *("robustness.severities", "robustness.plots", "search.sweep"),
}
"""Modules, and packages with all their modules, that load no torch until it is needed."""


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


def package_of(module: str) -> str:
    return module.partition(".")[0]


def test_packages_import_downwards() -> None:
    layer = {name: height for height, names in enumerate(LAYERS) for name in names.split()}
    assert layer.keys() == {package_of(name) for name in MODULES}, "LAYERS names every package once"
    edges = {(name, other) for name, path in MODULES.items() for other in own_imports(path)}
    between = {(a, b) for a, b in edges if package_of(a) != package_of(b)}
    assert not {(a, b) for a, b in between if layer[package_of(a)] <= layer[package_of(b)]}


def test_no_module_imports_in_a_circle() -> None:
    """Type-only imports and those inside functions included."""
    above = {name: own_imports(path) for name, path in MODULES.items()}
    while ground := {name for name, others in above.items() if not others & above.keys()}:
        above = {name: others for name, others in above.items() if name not in ground}
    assert not above, "in a circle, or above one"


@pytest.mark.parametrize("name", MODULES)
def test_what_must_be_light_is_light(name: str) -> None:
    others = imported_at_its_head(MODULES[name])
    assert "torchvision" not in others
    if name in TORCH_FREE or package_of(name) in TORCH_FREE:
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
