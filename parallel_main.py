"""python parallel_main.py --config ...: the original research code's command for several nodes.

The same as `main.py`.
"""

import sys

from main import main

if __name__ == "__main__":
    sys.exit(main(["find", *sys.argv[1:]]))
