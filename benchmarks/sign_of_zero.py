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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with CIFAR-10")
    parser.add_argument(
        "--config", default="conv4_BinAct_kn_unsigned", help="configuration [%(default)s]"
    )
    parser.add_argument(
        "--prune-rate", default="0.2", help="fraction of weights kept [%(default)s]"
    )
    parser.add_argument(
        "--low-data", default="0.1", help="fraction of the training images [%(default)s]"
    )
    parser.add_argument("--epochs", default="3", help="epochs of each search [%(default)s]")
    parser.add_argument(
        "--seeds", type=int, default=3, help="number of seeds, from 0 [%(default)s]"
    )
    parser.add_argument(
        "--learn-batchnorm", action="store_true", help="batch norm with weight and bias that train"
    )
    arguments = parser.parse_args()
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
    tests: dict[str, list[float]] = {rule: [] for rule in RULES}
    for seed in range(arguments.seeds):
        for rule, zero in RULES.items():
            with tempfile.TemporaryDirectory() as folder:
                loss, validation, test = losses_and_accuracies(
                    {**options, "seed": seed}, arguments.config, zero, folder
                )
            tests[rule].append(test)
            print(
                f"seed {seed}, {rule}: loss {loss:.3f}, validation {validation:.2f} %, test"
                f" {test:.2f} %",
                flush=True,
            )
    for rule, accuracies in tests.items():
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        print(
            f"{rule}: test accuracy {statistics.mean(accuracies):.2f} % (sd {spread:.2f}, n ="
            f" {len(accuracies)})"
        )
    differences = [plus - zero for plus, zero in zip(*tests.values(), strict=True)]
    print(
        f"+1 less 0, by seed: {', '.join(f'{d:+.2f}' for d in differences)}; mean"
        f" {statistics.mean(differences):+.2f}"
    )


if __name__ == "__main__":
    main()
