"""Run a ticket on a machine without PyTorch: numpy is enough.

python examples/05_numpy_only.py [TICKET-OF-DIGITS]
"""

import sys
import time
from pathlib import Path

import numpy as np

import biprop

TICKET = Path(__file__).parents[1] / "pretrained" / "digits.mpt"


def enlarged(small: np.ndarray, side: int = 32) -> np.ndarray:
    """Grey images [N, 8, 8] of 0 .. 16 as [N, side, side] uint8, by bilinear interpolation."""
    from_side = small.shape[1]
    places = (np.arange(side) + 0.5) * from_side / side - 0.5
    # [side, from_side]: what each pixel takes from each of the small image
    share = np.stack([np.interp(places, np.arange(from_side), row) for row in np.eye(from_side)], 1)
    return (share @ (small * (255 / 16)) @ share.T).round().astype(np.uint8)


def test_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images [360, 32, 32] uint8 and labels [360]: every fifth of the embedded digits."""
    file = Path(biprop.__file__).parent / "data" / "digits.npz"
    with np.load(file) as archive:
        return enlarged(archive["images"][::5].reshape(-1, 8, 8)), archive["labels"][::5]


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else TICKET
    engine = biprop.Engine(file)
    images, labels = test_digits()

    start = time.perf_counter()
    logits = engine.run(images[:, None])  # [N, 1, 32, 32]
    seconds = time.perf_counter() - start
    single = engine.run(images[1])  # one image

    ticket = engine.ticket
    bytes_in_memory, _ = engine.memory
    classes = logits.argmax(axis=1)
    print(f"{file.name}: {file.stat().st_size:,} bytes, {ticket.kept:,} weights kept")
    print(f"accuracy      {100 * np.mean(classes == labels):.2f} % of {len(labels)} test images")
    print(f"time          {1000 * seconds / len(images):.3f} ms an image")
    print(f"memory        {bytes_in_memory:,} bytes")
    print(f"one image     class {ticket.classes[int(single.argmax())]}")
    print(f"PyTorch       {'loaded' if 'torch' in sys.modules else 'not loaded'}")


if __name__ == "__main__":
    main()
