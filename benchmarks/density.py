"""How dense and how deep the package is: sizes of functions and lines, layers of imports, circles.

    python benchmarks/density.py                      # this tree
    python benchmarks/density.py src OTHER/src        # and another one beside it

Counted without running anything. A node is one of Python's syntax tree, without the load and store
marks. Depth is the longest chain of modules that import each other, type-only imports and those
inside functions included, where modules in a circle count as one.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

LONG_LINE, LONG_FUNCTION = 100, 60
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method of a file, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def nodes(function: Function) -> int:
    """Syntax nodes of a function, without load and store marks."""
    return sum(not isinstance(node, ast.expr_context) for node in ast.walk(function))


def without_docstring(tree: ast.Module) -> Iterator[str]:
    """Public classes, functions and methods of a file that have no docstring."""
    for node in tree.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield node.name
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            is_function = isinstance(method, Function) and not method.name.startswith("_")
            if is_function and ast.get_docstring(method) is None:  # type: ignore[arg-type]
                yield f"{node.name}.{method.name}"  # type: ignore[attr-defined]


def imports(root: Path) -> dict[str, set[str]]:
    """For every module below `root`, the modules of the same package that it imports."""
    paths = {module_name(root, path): path for path in root.rglob("*.py")}
    return {name: set(imported(root, path, paths)) - {name} for name, path in paths.items()}


def module_name(root: Path, path: Path) -> str:
    """Dotted, from the package's folder: "data.items"; "data" for data/__init__.py."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imported(root: Path, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules that a file names in relative imports, wherever in it."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        parents = package[: len(package) - node.level + 1]
        source = ".".join([*parents, *(node.module or "").split(".")]).strip(".")
        for alias in node.names:
            submodule = f"{source}.{alias.name}".strip(".")
            if submodule in known:
                yield submodule
            elif source in known:
                yield source


def reach(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """For every module, all that it imports, directly or not."""
    closure = {name: set(others) for name, others in graph.items()}
    for middle in graph:
        for name, others in closure.items():
            if middle in others:
                closure[name] = others | closure[middle]
    return closure


def between_packages(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph of packages and of modules that are in none."""
    packages: dict[str, set[str]] = {}
    for name, others in graph.items():
        package = name.partition(".")[0]
        packages.setdefault(package, set()).update(n.partition(".")[0] for n in others)
    return {package: others - {package} for package, others in packages.items()}


def depth(graph: dict[str, set[str]], closure: dict[str, set[str]]) -> int:
    """The longest chain of imports, circles counted once."""
    same = {
        name: frozenset({n for n in o if name in closure[n]} | {name})
        for name, o in closure.items()
    }
    heights: dict[frozenset[str], int] = {}

    def height(circle: frozenset[str]) -> int:
        if circle not in heights:
            above = {same[other] for name in circle for other in graph[name]} - {circle}
            heights[circle] = 1 + max(map(height, above), default=0)
        return heights[circle]

    return max(map(height, same.values()))


def show(root: Path) -> None:
    """Print the figures of the package below `root`."""
    package = root / "biprop"
    files = sorted(package.rglob("*.py"))
    texts = [path.read_text() for path in files]
    trees = [ast.parse(text) for text in texts]
    found = [function for tree in trees for function in functions(tree)]
    lengths = [(f.end_lineno or f.lineno) - f.lineno + 1 for f in found]
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    graph = imports(package)
    closure, packages = reach(graph), between_packages(graph)
    rows = {
        "files": f"{len(files)}, in {len({path.parent for path in files})} folders",
        "functions": f"{len(found)}, median {statistics.median(map(nodes, found)):.0f} nodes, "
        f"{statistics.median(lengths):.0f} lines",
        f"functions over {LONG_FUNCTION} lines": str(sum(n > LONG_FUNCTION for n in lengths)),
        f"lines over {LONG_LINE} characters": f"{sum(len(line) > LONG_LINE for line in lines)} "
        f"of {len(lines)}",
        "fmt: skip": str(sum(line.endswith("# fmt: skip") for line in lines)),
        "public names without a docstring": str(
            sum(len(list(without_docstring(t))) for t in trees)
        ),
        "depth of imports between packages": str(depth(packages, reach(packages))),
        "depth of imports between modules": str(depth(graph, closure)),
        "modules in a circle": str(sum(name in others for name, others in closure.items())),
    }
    print(root)
    for name, value in rows.items():
        print(f"  {name:34} {value}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).parents[1] / "src"
    parser.add_argument("roots", nargs="*", type=Path, default=[here], help="folders with biprop/")
    for root in parser.parse_args().roots:
        if not (root / "biprop").is_dir():
            sys.exit(f"{root}: no folder biprop in it")
        show(root)


if __name__ == "__main__":
    main()
