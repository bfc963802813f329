"""Run folders and sweeps, written as a search writes them, but in no time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conftest import ROOT

from biprop import Ticket, UserError
from biprop.report import entries
from biprop.report.entries import Entry

DIGITS_TICKET = ROOT / "pretrained" / "digits.mpt"


def nothing_to_pack(path: Path) -> Ticket:
    raise UserError("there is none")


def read_all(*paths: Path) -> list[Entry]:
    """The entries of paths, whose runs have no checkpoint."""
    return entries.read([*map(str, paths)], nothing_to_pack, lambda items, *_: items)


def counts(right: int, images: int) -> dict[str, Any]:
    return {"right": right, "images": images, "right_in_5": images, "loss_sum": 1.0}


def epoch_line(epoch: int, **values: Any) -> dict[str, Any]:
    line = {"epoch": epoch, "train/loss": 1 / epoch, "train/top1": 80.0 + epoch}
    line |= {"validation/loss": 1.5 / epoch, "validation/top1": 70.0 + epoch, "density": 0.2}
    return {**line, "lr": 0.1, "seconds": 1.0, **values}


def write_run(folder: Path, right: int = 90, epochs: int = 3, **settings: Any) -> Path:
    """A complete run, whose best epoch is 2, without checkpoints."""
    (folder / "logs").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/model_best.pth").write_bytes(b"")
    settings = {"arch": "Conv2", "set": "digits", "prune_rate": 0.2, "epochs": epochs, **settings}
    lines = "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())
    (folder / "settings.txt").write_text(f"# biprop 0.1.0, torch 2.13.0\n{lines}")
    metrics = "".join(json.dumps(epoch_line(i)) + "\n" for i in range(1, epochs + 1))
    (folder / "logs/metrics.jsonl").write_text(metrics)
    layers = [("conv", 100, 20), ("fc", 700, 210)]
    records = [{"name": name, "weights": n, "kept": k} for name, n, k in layers]
    (folder / "layers.json").write_text(json.dumps(records))
    result = {"epoch": 2, "test": counts(right, 100), "validation": counts(45, 50)}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def write_sweep(place: Path, cells: list[tuple[str, int]], **settings: Any) -> Path:
    """A sweep over (prune rate, seed) below `place`/runs; its accuracies are 90 + the seed."""
    sweep = place / "runs/sweeps/s"
    sweep.mkdir(parents=True)
    for number, (rate, seed) in enumerate(cells):
        folder = f"runs/c/prune-rate={rate}/s-{number}"
        write_run(place / folder, 90 + seed, prune_rate=float(rate), seed=seed, **settings)
        state = {"values": {"prune_rate": rate, "seed": str(seed)}, "folder": folder}
        (sweep / f"{number}.json").write_text(json.dumps({"status": "done", **state}))
    return sweep
