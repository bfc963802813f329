"""python main.py --config ...: the command of the original research code. The same as `biprop find`, from a checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))

from biprop.cli import main

if __name__ == "__main__":
    sys.exit(main(["find", *sys.argv[1:]]))
