"""Find a ticket on the embedded digits, pack it, and run it: `biprop find`, `pack` and `evaluate`
from Python.

    python examples/01_find_and_pack.py

writes the run folder runs/example/... and the ticket digits.mpt into the working directory.
"""

import numpy as np

from biprop import Engine, config, data
from biprop.console import Console
from biprop.search.loop import Search
from biprop.search.pack import pack

# The options of `biprop find`, by their names in YAML files: see biprop find --print-config.
OPTIONS = {"epochs": 4, "prune_rate": 0.2, "name": "example"}


def main() -> None:
    options, name = config.resolve(None, OPTIONS)
    images = data.load(options)
    result = Search(options, name, images, Console()).run()

    ticket = pack(result.folder, {})
    size = ticket.save("digits.mpt")

    test = images.test
    logits = Engine("digits.mpt").run(test.images.numpy())  # without PyTorch
    is_right = logits.argmax(axis=1) == test.labels.numpy()

    dense_size = 4 * ticket.weights
    print()
    print(f"weights kept   {ticket.kept:,} of {ticket.weights:,}")
    print(f"digits.mpt     {size:,} bytes; the weights in float32 take {dense_size:,}")
    print(f"random scores  {result.random_scores.top1:.2f} % of the test images")
    print(f"the ticket     {100 * np.mean(is_right):.2f} %")


if __name__ == "__main__":
    main()
