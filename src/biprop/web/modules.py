"""The engine compiled to WebAssembly, which `make wasm` puts beside this file and wheels hold."""

from __future__ import annotations

from importlib import resources

from ..errors import UserError

KINDS = ("simd", "scalar")
"""The modules: with SIMD instructions, and for browsers without them."""
HOW_TO_BUILD = (
    "run `make wasm` in a checkout of biprop (it needs emscripten: apt-get install emscripten)"
)


def modules() -> dict[str, bytes]:
    """The module of each kind.

    Raises:
        UserError: this installation has none.
    """
    folder = resources.files("biprop.web")
    files = {kind: folder / f"engine-{kind}.wasm" for kind in KINDS}
    if not all(file.is_file() for file in files.values()):
        raise UserError(
            f"this installation has no engine for web pages: {HOW_TO_BUILD}, or install a wheel"
        )
    return {kind: file.read_bytes() for kind, file in files.items()}
