"""docs/ticket-format.md lists what the program has."""

import re

from conftest import ROOT

from biprop.models.operations import MOST_OPERATIONS, OPERATIONS


def test_the_specification_lists_every_operation_with_its_attributes() -> None:
    text = (ROOT / "docs" / "ticket-format.md").read_text()
    table = text.partition("| op | inputs |")[2].partition("\n\n")[0]
    listed = {}
    for line in table.splitlines()[2:]:
        names, _, tensors, attributes, _ = (cell.strip() for cell in line.split("|")[1:-1])
        for name in re.findall(r"`(\w+)`", names):
            listed[name] = tuple(map(_words, (tensors, attributes)))
    assert listed == {name: (kind.tensors, kind.attributes) for name, kind in OPERATIONS.items()}
    assert f"{MOST_OPERATIONS:,}" in text and len(OPERATIONS) == 41


def _words(cell: str) -> tuple[str, ...]:
    return tuple(cell.split(", ")) if cell else ()
