import argparse

import pytest

from biprop import UserError
from biprop.cli.parser import Help, Parser, add_options, coerced, overrides


def test_mistakes_are_user_errors() -> None:
    parser = Parser(prog="biprop test")
    parser.add_argument("--n", type=int)
    with pytest.raises(UserError, match=r"invalid int value: 'x'; see biprop test --help"):
        parser.parse_args(["--n", "x"])


def test_options_are_flags_in_both_spellings_and_only_what_is_given_counts() -> None:
    parser = Parser(formatter_class=Help)
    add_options(parser)
    assert overrides(parser.parse_args([])) == {}
    given = overrides(parser.parse_args(["--prune-rate", "0.2", "--batch_size", "7", "--no-jsd"]))
    assert coerced(given) == {"prune_rate": 0.2, "batch_size": 7, "jsd": False}
    assert "--batch_size" not in parser.format_help()
    only = Parser()
    add_options(only, ("set", "data"))
    with pytest.raises(UserError, match="unrecognized arguments: --epochs"):
        only.parse_args(["--epochs", "3"])


def test_rates_of_layers_are_pairs() -> None:
    given = overrides(argparse.Namespace(layer_prune_rates=["fc=0.5", "conv1=dense"]))
    assert given == {"layer_prune_rates": {"fc": "0.5", "conv1": "dense"}}
    with pytest.raises(UserError, match="--layer-prune-rates fc: must be PATTERN=RATE"):
        overrides(argparse.Namespace(layer_prune_rates=["fc"]))
