"""Does the value of sign(0) in the binary activation matter? Searches of MPT-1/1 with both rules,
over seeds.

    python benchmarks/sign_of_zero.py --data DIR    # Conv4_BinAct, a tenth of CIFAR-10, 3 seeds
    python benchmarks/sign_of_zero.py --data DIR --config conv4_BinAct_sc_unsigned --epochs 3

The original research code has sign(0) = 0, a third value; a bit has two, and here sign(0) = +1.
Exact zeros are common: a unit whose weights are all pruned gives 0, and a batch norm with a zero
bias keeps it.
Prints a line a search, then mean and standard deviation for each rule, and their paired difference.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile

from biprop import config, data
from biprop.console import Console
from biprop.search.loop import Search
from biprop.subnetwork.layers import BinaryActivation

RULES = {"sign(0) = +1": 1, "sign(0) = 0": 0}


def losses_and_accuracies(
    options: dict[str, object], name: str, zero: int, folder: str
) -> tuple[float, float, float]:
    """Training loss, validation accuracy and test accuracy (percent) of a search with sign(0) =
    `zero`.
    """
    resolved, config_name = config.resolve(name, {**options, "log_dir": folder})
    search = Search(resolved, config_name, data.load(resolved), Console(io.StringIO()))
    for module in search.model.modules():
        if isinstance(module, BinaryActivation):
            module.zero = zero
    result = search.run()
    return search.state.best_train.loss, result.validation.top1, result.test.top1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, help="folder with CIFAR-10")
    add("--config", default="conv4_BinAct_kn_unsigned", help="configuration [%(default)s]")
    add("--prune-rate", default="0.2", help="fraction of weights kept [%(default)s]")
    add("--low-data", default="0.1", help="fraction of the training images [%(default)s]")
    add("--epochs", default="3", help="epochs of each search [%(default)s]")
    add("--seeds", type=int, default=3, help="number of seeds, from 0 [%(default)s]")
    affine = "batch norm with weight and bias that train"
    add("--learn-batchnorm", action="store_true", help=affine)
    return parser.parse_args()


def options_of(arguments: argparse.Namespace) -> dict[str, object]:
    options: dict[str, object] = {
        "data": arguments.data,
        "prune_rate": arguments.prune_rate,
        "low_data": arguments.low_data,
        "epochs": arguments.epochs,
        "device": "cpu",
        "baseline": False,
    }
    if arguments.learn_batchnorm:
        options |= {"bn_type": "AffineBatchNorm", "learn_batchnorm": True}
    return options


def accuracies_by_seed(
    options: dict[str, object], config: str, seeds: int
) -> dict[str, list[float]]:
    """Test accuracies (percent) by seed under each rule; prints a line per search."""
    accuracies: dict[str, list[float]] = {rule: [] for rule in RULES}
    for seed in range(seeds):
        for rule, zero in RULES.items():
            with tempfile.TemporaryDirectory() as folder:
                loss, validation, test = losses_and_accuracies(
                    {**options, "seed": seed}, config, zero, folder
                )
            accuracies[rule].append(test)
            result = f"loss {loss:.3f}, validation {validation:.2f} %, test {test:.2f} %"
            print(f"seed {seed}, {rule}: {result}", flush=True)
    return accuracies


def main() -> None:
    arguments = parse()
    tests = accuracies_by_seed(options_of(arguments), arguments.config, arguments.seeds)
    for rule, accuracies in tests.items():
        mean = statistics.mean(accuracies)
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        print(f"{rule}: test accuracy {mean:.2f} % (sd {spread:.2f}, n = {len(accuracies)})")
    differences = [plus - zero for plus, zero in zip(*tests.values(), strict=True)]
    by_seed = ", ".join(f"{difference:+.2f}" for difference in differences)
    print(f"+1 less 0, by seed: {by_seed}; mean {statistics.mean(differences):+.2f}")


if __name__ == "__main__":
    main()
