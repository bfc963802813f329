"""The pages of biprop web in Chromium: bytes, images a second, differences from the engine.

    make wasm
    python benchmarks/web.py pretrained/*.mpt           # chromium must be on the PATH

Each page runs 100 images; the table has the largest difference of a logit. Then it runs the first
of them again and again, one image a call, `--rounds` times for a second; the table has the median.
All of it with WebAssembly's SIMD instructions, and without them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biprop import Engine
from biprop.cli import command_line
from biprop.web.modules import KINDS
from biprop.web.packing import as_text

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

IMAGES = 100
SECOND = """
ready.then(({ engine }) => {
  const image = bytesOfText(IMAGE), begin = performance.now();
  let count = 0;
  while (performance.now() - begin < 1000) { engine.run(image); count++; }
  return 1000 * count / (performance.now() - begin);
})
"""
"""Images in a second; IMAGE stands for one image."""


def main() -> None:
    """Print a table with two rows a ticket."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("tickets", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    from browser import CHROMIUM, chromium  # type: ignore[import-not-found]

    if not CHROMIUM:
        sys.exit("no chromium on the PATH")
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder) / "profile") as page:
        print(f"{'ticket':20}  {'bytes':>9}  {'engine':7}  {'images/s':>9}  {'difference':>10}")
        for ticket in arguments.tickets:
            file = Path(folder) / f"{ticket.stem}.html"
            sys.stdout.flush()
            if command_line.main(["web", str(ticket), "-o", str(file)]):
                continue
            for kind in KINDS:
                page.open(file, fragment=f"#{kind}")
                size = f"{file.stat().st_size:,}"
                rate, difference = measured(page, ticket, arguments.rounds)
                print(
                    f"{ticket.name:20}  {size:>9}  {kind:7}  {rate:9,.0f}  {difference:10.2g}",
                    flush=True,
                )


def measured(page: Any, ticket: Path, rounds: int) -> tuple[float, float]:
    """Images a second, and the largest difference of a logit."""
    engine = Engine(ticket)
    channels, height, width = engine.shape
    images = smooth_images(channels, height, width)
    run = f"ready.then(({{ engine }}) => [...engine.run(bytesOfText({as_string(images)}))])"
    logits = np.array(page.evaluate(run)).reshape(IMAGES, engine.outputs)
    second = SECOND.replace("IMAGE", as_string(images[:1]))
    rates = [page.evaluate(second) for _ in range(rounds)]
    return statistics.median(rates), float(np.abs(logits - engine.run(images)).max())


def smooth_images(channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """Random blots of 4 x 4 pixels: [images, C, H, W]."""
    shape = (IMAGES, channels, -(-height // 4), -(-width // 4))
    small = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return small.repeat(4, 2).repeat(4, 3)[:, :, :height, :width]


def as_string(images: NDArray[np.uint8]) -> str:
    """Images as the page takes them, [count, height, width, channels], as a JavaScript text."""
    return json.dumps(as_text(images.transpose(0, 2, 3, 1).tobytes()))


if __name__ == "__main__":
    main()
