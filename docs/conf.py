"""Settings of Sphinx for `make docs`.

The source folder is the repository's root, so that the links between README.md, docs/ and source
files, which GitHub follows, lead to the same places on the site.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

import biprop  # noqa: E402

project = "biprop"
copyright = "the authors of biprop, Apache-2.0"
version = release = biprop.__version__
root_doc = "docs/index"

include_patterns = ["*.md", "docs/**.md", "pretrained/README.md"]
exclude_patterns = [
    *(f"{path.name}/**" for path in ROOT.iterdir() if path.name not in ("docs", "pretrained")),
    "docs/_build/**",
]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
highlight_language = "none"

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"biprop {version}"
html_extra_path = ["_root"]  # index.html, which leads to docs/index.html
html_show_copyright = False
html_copy_source = False


def join_names(*arguments: list[str]) -> None:
    """Sphinx takes "a" for the type of "b" in the field that napoleon makes of "a, b: ..."."""
    lines = arguments[-1]
    lines[:] = [re.sub(r"^:ivar [\w, ]+:", lambda m: m[0].replace(", ", ","), x) for x in lines]


def setup(app: object) -> None:
    app.connect("autodoc-process-docstring", join_names)  # type: ignore[attr-defined]
