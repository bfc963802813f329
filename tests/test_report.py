from typing import Any

import pytest
from test_ticket import small_ticket

from biprop.ticket.report import ticket_report


def test_the_bytes_add_up() -> None:
    ticket = small_ticket(
        found={"test": {"right": 9, "images": 10}, "epoch": 3, "config": "digits"}
    )
    size = len(ticket.to_bytes())
    report = ticket_report(ticket, size)
    assert [row[0] for row in report.layers] == ["conv", "mid", "fc"]
    assert report.layers[0][1:4] == (
        "4 x 3 x 3 x 3",
        str(ticket.layers[0].kept),
        f"{100 * ticket.layers[0].kept / 108:.2f}",
    )
    totals = dict(report.totals)
    parts = [
        int(totals[name].split()[0].replace(",", ""))
        for name in ("  masks", "  signs", "  batch norm and dense", "  the rest")
    ]
    assert sum(parts) == pytest.approx(size, abs=2)
    assert totals["file"].startswith(
        f"{size:,} bytes: {8 * size / ticket.weights:.4f} bits per weight, "
    )
    assert totals["test accuracy"] == "90.00 %  (9 of 10 images), as recorded"
    assert totals["found"] == "config digits, epoch 3"


@pytest.mark.parametrize("found", [{}, {"test": 3, "validation": {"right": "x"}}, {"epoch": [1]}])
def test_what_the_ticket_tells_may_be_anything(found: dict[str, Any]) -> None:
    ticket = small_ticket(found=found, classes=[], input_size=None)
    ticket_report(ticket, len(ticket.to_bytes()))
