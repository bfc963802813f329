"""The model card of a ticket: the README.md of its repository on the Hugging Face Hub.

The texts of a ticket may be anybody's: they are escaped, in Markdown and in the YAML block.
"""

from __future__ import annotations

import html
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, abbreviated
from ..hub import Address
from ..runs.folder import PROGRESS, RESULT, read_object
from ..screen import printable
from ..ticket import Ticket
from ..ticket.report import byte_parts, right_and_images
from .commands import command
from .entries import Entry, number
from .entries import read as read_entries

MARK = "<!-- Written by biprop push. Changes are lost at the next push. -->"
"""By which a card is known as one of ours, which may be replaced."""

_DATA_SETS = {
    "CIFAR10": ("CIFAR-10", "uoft-cs/cifar10"),
    "CIFAR100": ("CIFAR-100", "uoft-cs/cifar100"),
    "MNIST": ("MNIST", "ylecun/mnist"),
    "TinyImageNet": ("Tiny ImageNet", "zh-plus/tiny-imagenet"),
}
"""Value of --set -> the name of the data set, and its repository on the Hub."""
_DIGITS = "Optical Recognition of Handwritten Digits (UCI, test part)"
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_MOST_CLASSES = 20

_PAPERS = """\
- J. Diffenderfer and B. Kailkhura: *Multi-Prize Lottery Ticket Hypothesis: Finding Accurate Binary
  Neural Networks by Pruning a Randomly Weighted Network*, ICLR 2021,
  [arXiv 2103.09377](https://arxiv.org/abs/2103.09377)
- J. Diffenderfer, B. R. Bartoldson, S. Chaganti, J. Zhang and B. Kailkhura: *A Winning Hand:
  Compressing Deep Networks Can Improve Out-of-Distribution Robustness*, NeurIPS 2021,
  [arXiv 2106.09129](https://arxiv.org/abs/2106.09129)"""


@dataclass(frozen=True)
class Publication:
    """What is published where.

    Attributes:
        address: of the ticket on the Hub; its revision is not known before the upload.
        size: of the file, in bytes.
        sha256: of the file, 64 hexadecimal digits.
        licence: an identifier of the Hub's, such as apache-2.0; None: none is stated.
    """

    address: Address
    size: int
    sha256: str
    licence: str | None = None

    @property
    def title(self) -> str:
        """The name of the model: that of the repository, without the user's."""
        return self.address.repo.partition("/")[2]


def check_licence(licence: str | None) -> None:
    """Raise UserError unless this is the form of the Hub's identifiers of licences, or None."""
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UserError(
            f"--license {abbreviated(licence)}: must be an identifier of the Hub's, e.g."
            " apache-2.0, mit or cc-by-4.0"
        )


def is_ours(card: str) -> bool:
    """Whether a README.md was written here."""
    return MARK in card


def read_run(path: Path, ticket: Ticket, pack: Callable[[Path], Ticket]) -> Entry:
    """The run folder whose result is added to the card.

    Args:
        path: of the folder.
        ticket: of its search.
        pack: makes the ticket of a run folder, for comparison.

    Raises:
        UserError: it is none, or that of another search.
    """
    (entry,) = read_entries([str(path)], pack, lambda paths, what, count: paths)[:1]
    if entry.kind != "run":
        raise UserError(f"--run {path}: not a run folder")
    if entry.ticket and _subnetwork(entry.ticket) != _subnetwork(ticket):
        raise UserError(f"--run {path}: is of another search than the ticket")
    return entry


def _subnetwork(ticket: Ticket) -> list[tuple[str, int, float]]:
    """What two tickets of one search have in common, also if one of them is compact."""
    return [(layer.name, layer.kept, layer.gain) for layer in ticket.layers]


def model_card(entry: Entry, publication: Publication, run: Entry | None = None) -> str:
    """The text of the card: a YAML block that the Hub reads, and Markdown.

    Args:
        entry: of the ticket, see `entries.read`.
        publication: what is published where.
        run: the folder of its search, which says more than the ticket records; None: only the
            ticket counts.
    """
    assert entry.ticket
    sections = [
        f"# {publication.title}",
        _introduction(entry.ticket),
        _table(_facts(entry, publication, run)),
        _usage(entry.ticket, publication.address),
        _search(entry, run),
        _licence(publication.licence),
        f"## Papers\n\nThe method is that of two papers; please cite them.\n\n{_PAPERS}",
    ]
    body = "\n\n".join(filter(None, sections))
    return f"---\n{_front_matter(entry, publication)}---\n{MARK}\n\n{body}\n"


# ---- the YAML block ----


def _front_matter(entry: Entry, publication: Publication) -> str:
    import yaml

    tags = ["biprop", "multi-prize-ticket", "binary-neural-network", "lottery-ticket-hypothesis"]
    fields: dict[str, Any] = {"library_name": "biprop", "tags": tags}
    if _is_classifier(entry.ticket):
        fields["pipeline_tag"] = "image-classification"
    if publication.licence:
        fields["license"] = publication.licence
    data_set = _set(entry)
    if data_set in _DATA_SETS:
        fields["datasets"] = [_DATA_SETS[data_set][1]]
    if entry.accuracy is not None and data_set:
        fields["metrics"] = ["accuracy"]
        fields["model-index"] = [_model_index(entry, publication.title, data_set)]
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _is_classifier(ticket: Ticket | None) -> bool:
    """Whether a ticket's network is from images to classes."""
    shapes = (ticket.input_shape, ticket.output_shape) if ticket else (None, None)
    return tuple(len(shape or ()) for shape in shapes) == (3, 1)


def _model_index(entry: Entry, title: str, data_set: str) -> dict[str, Any]:
    """The accuracy in the form of the Hub's leaderboards, as a fraction."""
    name, identifier = _DATA_SETS.get(data_set, (data_set, data_set.lower()))
    right, images = entry.counts["test"]
    metric = {"type": "accuracy", "value": round(right / images, 6), "name": "test accuracy"}
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": name, "type": identifier, "split": "test"},
        "metrics": [metric],
    }
    return {"name": title, "results": [result]}


# ---- the text ----


def _introduction(ticket: Ticket) -> str:
    share = f"{100 * ticket.kept / max(1, ticket.weights):.3g} %"
    return (
        "A Multi-Prize Ticket: a binary subnetwork of a neural network whose weights are random and"
        f" were never trained. Of {ticket.weights:,} random weights the search kept"
        f" {ticket.kept:,} ({share}); each of them counts as plus or minus one number per layer."
        " The file holds a seed and a coded mask in place of weights. The program biprop reads and"
        " runs it; the file contains nothing that is executed."
    )


def _facts(entry: Entry, publication: Publication, run: Entry | None) -> list[tuple[str, str]]:
    ticket = entry.ticket
    assert ticket
    bits = 8 * publication.size / max(1, ticket.weights)
    masks = byte_parts(ticket, publication.size)["masks"]
    rows = [
        (
            "file",
            f"`{publication.address.file}`, {publication.size:,} bytes, {bits:.2f} bits per weight",
        ),
        ("SHA-256", f"`{publication.sha256}`"),
        ("network", _code(entry.network) if ticket.network else "of the author's own"),
        ("input", _input(ticket)),
        ("classes", _classes(ticket.classes)),
        ("data set", _data_set(entry)),
        ("masks", f"{masks:,} bytes"),
    ]
    rows += [(f"{split} accuracy", text) for split, text in _accuracies(entry, run).items()]
    return rows + (_facts_of_run(run) if run else [])


def _input(ticket: Ticket) -> str:
    shape = ticket.input_shape
    if shape is None:
        return "not recorded"
    normalised = "pixels in 0 .. 1; the ticket knows mean and std" if ticket.mean else "floats"
    return f"{' x '.join(map(str, shape))} ({normalised})"


def _classes(names: list[str]) -> str:
    if not names:
        return "not recorded"
    more = f" and {len(names) - _MOST_CLASSES:,} more" if len(names) > _MOST_CLASSES else ""
    return f"{len(names):,}: {', '.join(map(_escaped, names[:_MOST_CLASSES]))}{more}"


def _set(entry: Entry) -> str | None:
    """The value of --set of the search; None if it is not recorded."""
    return str(entry.settings["set"]) if entry.settings else None


def _data_set(entry: Entry) -> str:
    data_set = _set(entry)
    if data_set is None:
        return "not recorded"
    if data_set == "digits":
        return _DIGITS
    if data_set in _DATA_SETS:
        name, repo = _DATA_SETS[data_set]
        return f"[{name}](https://huggingface.co/datasets/{repo})"
    return f"of the author's own (`--set {data_set}`)"


def _accuracies(entry: Entry, run: Entry | None) -> dict[str, str]:
    """Accuracies by split, as the ticket records them, or else the run."""
    counts = {**(run.counts if run else {}), **entry.counts}
    return {
        split: f"{100 * right / images:.2f} % ({right:,} of {images:,} images)"
        for split, (right, images) in counts.items()
        if images
    }


def _facts_of_run(run: Entry) -> list[tuple[str, str]]:
    """What only the folder of the search knows."""
    result = read_object(run.path / RESULT)
    rows = []
    random_scores = result.get("random_scores")
    counts = right_and_images({"random": random_scores}, "random")
    if counts and counts[1]:
        accuracy = f"{100 * counts[0] / counts[1]:.2f} %"
        rows.append(("with random scores", f"{accuracy} (the same network before the search)"))
    seconds = number(read_object(run.path / PROGRESS), "elapsed")
    if seconds is not None and math.isfinite(seconds):
        rows.append(("time of the search", f"{seconds:,.0f} s"))
    return rows


def _usage(ticket: Ticket, address: Address) -> str:
    where = str(address)
    on_pixels = "on_pixels=True" if ticket.mean else ""
    stem = Path(str(address.file)).stem
    local = shlex.quote(f"{stem}.mpt")
    repo = shlex.quote(f"{address.repo}/{address.file}")
    shape = ticket.input_shape
    size = f"[N, {', '.join(map(str, shape))}]" if shape else "[N, ...]"
    return f"""\
## How to run it

In PyTorch, as an ordinary module (`pip install 'biprop[hub]'`):

```python
import biprop

model = biprop.Ticket.load("{where}").to_model({on_pixels})
logits = model(images)  # float32 {size}{", pixels in 0 .. 1" if ticket.mean else ""}
```

Without PyTorch, with numpy only, on the CPU:

```python
import biprop

engine = biprop.Engine(biprop.Ticket.load("{where}"))
logits = engine.run(images)  # {"uint8, or float32 in 0 .. 1," if ticket.mean else "float32"} {size}
```

In C, or any language that calls it: download the ticket, write it as a program, and load that by
`biprop_load_file` of biprop.h (in `biprop.include_dir()`); biprop's examples/c/predict.c shows how.

```sh
biprop pull {repo} -o {local}
biprop compile {local} -o {shlex.quote(f"{stem}.bprog")}
```

To get the same bytes for ever, name the commit: `{address.repo}@COMMIT`; `biprop pull --sha256`
checks the content as well."""


def _search(entry: Entry, run: Entry | None) -> str:
    source = run if run and run.settings else entry
    if not source.settings:
        return ""
    line = command(source.config_name, source.settings)
    parts = ["## How it was found"]
    if line:
        data = "" if source.settings["set"] == "digits" or "--data" in line else " --data DIR"
        parts.append(f"{_fenced(line + data)}")
    texts = [f"epoch {source.best_epoch}"] if source.best_epoch else []
    texts += [source.versions] if source.versions else []
    if texts:
        parts.append(_escaped(", ".join(texts)) + ".")
    return "\n\n".join(parts)


def _licence(licence: str | None) -> str:
    of_ticket = f"This ticket is under {licence}." if licence else "None is stated for this ticket."
    return f"## Licence\n\n{of_ticket} biprop itself is under Apache-2.0."


# ---- Markdown ----


def _table(rows: list[tuple[str, str]]) -> str:
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """A text that Markdown and HTML show as it is."""
    plain = html.escape(printable(text), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", plain)


def _code(text: str) -> str:
    """A text in the type of code, which cannot end before it does."""
    return f"`{printable(text).replace('`', '').replace('|', '')}`"


def _fenced(text: str) -> str:
    """A block of code with a fence that the text does not contain."""
    fence = "`" * (1 + max([2, *map(len, re.findall("`+", text))]))
    return f"{fence}sh\n{printable(text)}\n{fence}"
