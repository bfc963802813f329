"""python main.py --config ...: the command of the original research code.

The same as `biprop find`, from a checkout.
"""

import os
import sys
from pathlib import Path

source = str(Path(__file__).resolve().parent / "src")
sys.path.insert(0, source)
# The processes that --multigpu starts import the package from there as well.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))

from biprop.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["find", *sys.argv[1:]]))
