"""The ticket: a binary subnetwork as a file of under one bit per weight. numpy only;
docs/ticket-format.md is the specification.

A ticket holds a seed and a coded mask instead of weights: signs follow from the seed (or are
stored, for networks of another origin), magnitudes are one gain a layer. A damaged or hostile file
is a `TicketError`, before anything of its size is allocated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import rng
from ..errors import TicketError
from ..names import is_name
from . import container, entropy_coding
from .container import check, whole_numbers
from .entropy_coding import Model

if TYPE_CHECKING:
    from torch import nn

    from ..subnetwork import Subnetwork

from .layer import Layer, Plane
from .state import group_names, names_of, plane_of, to_bfloat16, ungroup

VERSION = 1
"""Of the file format. A newer one is refused; older ones are read for ever."""

MOST_WEIGHTS, MOST_LAYERS, MOST_ROWS = 1 << 32, 1 << 16, 1 << 18


DEFAULT_MOST_WEIGHTS = 1 << 30
"""That a reader accepts unless told otherwise: planes of 128 MiB."""


@dataclass
class Ticket:
    """A subnetwork of random binary weights, and how it was found.

    Attributes:
        network: what `biprop.models.build` needs (name and options), or None for a network of the
            user's own.
        seed: of the signs; None where no layer takes them from it.
        layers: the masked layers, in the network's order.
        state: every other number of the network by its name in the state dict: batch norm, biases,
            layers kept dense; float32.
        input_size: (channels, height, width).
        classes: names, in the order of the outputs.
        mean, std: of the normalisation, per channel, for pixels in [0, 1].
        found: how: options that differ from the default, accuracies, date, versions. Plain JSON.
        compact: `state` is stored in 16 bits (bfloat16) a number.
    """

    network: dict[str, Any] | None
    seed: int | None
    layers: list[Layer]
    state: dict[str, NDArray[np.float32]]
    input_size: tuple[int, int, int] | None = None
    classes: list[str] = field(default_factory=list)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    found: dict[str, Any] = field(default_factory=dict)
    compact: bool = False

    @property
    def weights(self) -> int:
        """Number of masked weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def kept(self) -> int:
        return sum(layer.kept for layer in self.layers)

    def sign_plane(self, layer: Layer) -> Plane:
        """Plane of all signs of a layer (1 for +); where they are stored, pruned weights have 0."""
        if layer.signs == "seed":
            assert self.seed is not None
            return np.packbits(
                rng.sign_bits(self.seed, layer.number, layer.weights), bitorder="little"
            )
        if layer.signs == "positive":
            return np.packbits(np.ones(layer.weights, dtype=np.uint8), bitorder="little")
        assert layer.stored is not None
        signs = np.zeros(layer.weights, dtype=np.uint8)
        signs[layer.kept_mask().ravel()] = np.unpackbits(
            layer.stored, count=layer.kept, bitorder="little"
        )
        return np.packbits(signs, bitorder="little")

    def weight(self, layer: Layer) -> NDArray[np.float32]:
        """What the layer computes with: float32 of its shape, values -gain, 0 and +gain."""
        plus = np.unpackbits(
            self.sign_plane(layer), count=layer.weights, bitorder="little"
        ).reshape(layer.shape)
        gain = np.float32(layer.gain)
        return np.where(layer.kept_mask(), np.where(plus, gain, -gain), np.float32(0))

    def save(self, path: str | Path) -> int:
        """Write the ticket to `path`, in one step; returns the file's size in bytes.

        Raises:
            UserError: it cannot be written.
        """
        return container.save(path, self.to_bytes())

    @staticmethod
    def load(path: str | Path, most_weights: int = DEFAULT_MOST_WEIGHTS) -> Ticket:
        """Read a ticket; the same file gives the same bits on every machine.

        Args:
            path: of the file.
            most_weights: refuse more, before memory is taken for them: a small file can be a large
                mask that keeps nothing.

        Raises:
            TicketError: no such file, or not a ticket that this version reads; the message says
                why.
        """
        return container.load(
            path, "ticket", lambda content: Ticket.from_bytes(content, most_weights)
        )

    def to_bytes(self) -> bytes:
        """The file's content. A ticket that was read gives the same bytes again."""
        stream, models = self.coded_masks()
        directory = group_names({name: value.shape for name, value in self.state.items()})
        ordered = [self.state[name].ravel() for name, _ in names_of(directory)]
        values = np.concatenate([np.empty(0, np.float32), *ordered]).astype("<f4")
        parts: dict[str, tuple[str, NDArray[Any]]] = {
            "gains": ("F32", np.array([layer.gain for layer in self.layers], dtype="<f4")),
            "state": ("BF16", to_bfloat16(values)) if self.compact else ("F32", values),
            "masks": ("U8", stream),
            "signs": (
                "U8",
                np.concatenate(
                    [
                        np.empty(0, np.uint8),
                        *(la.stored for la in self.layers if la.stored is not None),
                    ]
                ),
            ),
        }
        content = {
            "network": self.network,
            "seed": None if self.seed is None else str(self.seed),
            "generator": rng.GENERATOR_VERSION,
            "layers": [
                [layer.name, layer.number, list(layer.shape), layer.kept, layer.signs, str(model)]
                for layer, model in zip(self.layers, models, strict=True)
            ],
            "state": directory,
            "input_size": self.input_size,
            "classes": self.classes,
            "mean": self.mean,
            "std": self.std,
            "found": self.found,
        }
        return container.pack("ticket", VERSION, content, parts)

    @staticmethod
    def from_bytes(content: bytes, most_weights: int = DEFAULT_MOST_WEIGHTS) -> Ticket:
        """The ticket of a file's content; see `load`.

        Raises:
            TicketError: it is not one that this version reads.
        """
        with container.damage_told():
            return _read(*container.unpack("ticket", VERSION, content), most_weights)

    def to_model(self, model: nn.Module | None = None, on_pixels: bool = False) -> nn.Module:
        """The network in PyTorch, in evaluation mode: an ordinary module, whose masked layers have
        the weights -gain, 0, +gain.

        Args:
            model: for a network of the user's own (`network` is None), a new one of the same class.
            on_pixels: the module takes pixels in [0, 1] and normalises them itself: RobustBench's
                convention. Without, it takes what was normalised by `mean` and `std`.

        Raises:
            TicketError: the ticket does not fit the model, or tells no normalisation for
                `on_pixels`.
        """
        from .torch import OnPixels, build_from, fill

        if on_pixels and not self.mean:
            raise TicketError(
                "the ticket tells no normalisation: normalise, and leave out on_pixels"
            )
        shapes = {layer.key: layer.shape for layer in self.layers}
        shapes |= {name: value.shape for name, value in self.state.items()}
        tensors = {layer.key: partial(self.weight, layer) for layer in self.layers}
        tensors |= {name: partial(np.array, value) for name, value in self.state.items()}
        built = build_from(self.network, shapes) if model is None else model
        fill(built, tensors, shapes)
        return OnPixels(built, self.mean, self.std) if on_pixels else built

    @staticmethod
    def from_model(model: nn.Module, subnetwork: Subnetwork, **about: Any) -> Ticket:
        """The ticket of a model that `convert` made a subnetwork of; checked, weight by weight.

        Args:
            model: the module, or a copy of it (`copy.deepcopy`, EMA), which is packed with its own
                masks. Wrappers (DataParallel, DistributedDataParallel, AveragedModel,
                `torch.compile`) leave no trace in the ticket; layers that took the place of masked
                ones are dense.
            subnetwork: what `convert` returned for it.
            about: `network`, `input_size`, `classes`, `mean`, `std`, `found` and `compact` of the
                ticket.

        Raises:
            TicketError: a layer cannot be rebuilt exactly, is sharded or float64, or the subnetwork
                is another model's; the message says what to pass.
        """
        from .torch import content_of

        content = content_of(model, subnetwork)
        ticket = Ticket(
            about.pop("network", None), content.seed, content.layers, content.state, **about
        )
        try:
            rebuilt = Ticket.from_bytes(ticket.to_bytes(), ticket.weights)
        except ValueError as e:
            raise TicketError(f"this network cannot be packed: {e}") from None
        content.check_weights(rebuilt.weight(layer) for layer in rebuilt.layers)
        return ticket

    def bits(self, layer: Layer) -> float:
        """Bits that the layer's mask takes in the file, to a fraction of a bit; signs that are
        stored come on top.
        """
        model = self.model_of(layer)
        if entropy_coding.is_coded_by_rows(layer.shape, layer.kept, model):
            return entropy_coding.cost(layer.kept_mask(), model)
        return entropy_coding.cost_of_one_chance(layer.kept, layer.weights)

    def coded_masks(self) -> tuple[NDArray[np.uint8], list[Model]]:
        """The stream of all masks, as in the file, and how each is coded."""
        models, rows = [self.model_of(layer) for layer in self.layers], 0
        for number, layer in enumerate(self.layers):
            rows += entropy_coding.rows_of(layer.shape, models[number])
            if rows > MOST_ROWS:
                models[number] = Model()
        planes, shapes = (
            [layer.mask for layer in self.layers],
            [layer.shape for layer in self.layers],
        )
        return (
            entropy_coding.encode_planes(
                planes, shapes, [layer.kept for layer in self.layers], models
            ),
            models,
        )

    def model_of(self, layer: Layer) -> Model:
        """How the layer's mask is coded."""
        return entropy_coding.best_model(layer.kept_mask()) if layer.model is None else layer.model


def _read(described: Any, tensors: Mapping[str, NDArray[Any]], most_weights: int) -> Ticket:
    check(isinstance(described, dict), "the description is not an object")
    check(set(tensors) == {"gains", "state", "masks", "signs"}, f"tensors {sorted(tensors)!r:.80}")
    generator, seed = described["generator"], described["seed"]
    if generator != rng.GENERATOR_VERSION or type(generator) is not int:
        raise TicketError(
            f"generator {generator!r:.20}: this biprop has version {rng.GENERATOR_VERSION}: install"
            " a newer one"
        )
    if seed is not None:
        check(
            isinstance(seed, str) and re.fullmatch("0|[1-9][0-9]{0,19}", seed) is not None,
            f"seed {seed!r:.40}",
        )
        check((seed := int(seed)) < 2**64, "the seed is 2**64 or more")
    layers = _layers(described["layers"], tensors, seed is not None, most_weights)
    state = ungroup(described["state"], tensors["state"])
    keys = [layer.key for layer in layers]
    check(len({*keys, *state}) == len(keys) + len(state), "a weight that comes twice")
    size, found, classes = described["input_size"], described["found"], described["classes"]
    check(
        size is None or (whole_numbers(size, 1 << 20) and len(size) == 3), "the size of the images"
    )
    check(isinstance(found, dict), "how it was found")
    check(isinstance(classes, list) and all(map(is_name, classes)), "the names of the classes")
    mean, std = described["mean"], described["std"]
    for numbers in (mean, std):
        check(
            isinstance(numbers, list)
            and all(type(v) in (int, float) and abs(v) < 1e6 for v in numbers),
            "mean or std",
        )
    check(len(mean) == len(std) and all(v > 0 for v in std), "mean and std do not fit together")
    check(not mean or size is None or len(mean) in (1, size[0]), "mean and std are of other images")
    network = _network(described["network"], size, classes)
    return Ticket(
        network=network,
        seed=seed,
        layers=layers,
        state=state,
        input_size=tuple(size) if size else None,
        classes=classes,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        found=found,
        compact=tensors["state"].dtype == np.dtype("<u2"),
    )


def _layers(
    entries: Any, tensors: Mapping[str, NDArray[Any]], has_seed: bool, most_weights: int
) -> list[Layer]:
    check(isinstance(entries, list) and len(entries) <= MOST_LAYERS, "the list of layers")
    rows = 0
    for entry in entries:
        check(isinstance(entry, list) and len(entry) == 6, "the entry of a layer")
        name, number, shape, kept, signs, model = entry
        check(
            is_name(name) and type(number) is int and 0 <= number < 2**32,
            "name or number of a layer",
        )
        check(
            whole_numbers(shape, MOST_WEIGHTS) and len(shape) <= 8 and 0 not in shape,
            f"the shape of layer {name:.40}",
        )
        check(
            type(kept) is int and 0 <= kept <= math.prod(shape),
            f"layer {name:.40} keeps {kept!r:.40} of {shape!r:.80}",
        )
        check(
            signs in ("positive", "stored") or (signs == "seed" and has_seed),
            f"the signs of layer {name:.40}",
        )
        check(isinstance(model, str), f"the model of layer {name:.40}")
        rows += entropy_coding.rows_of(tuple(shape), Model.of(model))
    shapes, counts = [tuple(entry[2]) for entry in entries], [entry[3] for entry in entries]
    sizes = list(map(math.prod, shapes))
    check(
        sum(sizes) <= MOST_WEIGHTS and rows <= MOST_ROWS + len(entries),
        f"{sum(sizes)} weights: more than {MOST_WEIGHTS}",
    )
    if sum(sizes) > most_weights:
        raise TicketError(
            f"{sum(sizes):,} weights: more than {most_weights:,}; if you trust it:"
            " Ticket.load(path, most_weights=...)"
        )
    # Even a weight that costs least, at a chance of 65,535 in 65,536, takes 2.2e-5 bits: a small
    # stream cannot be a huge mask.
    coded = sum(n for n, kept in zip(sizes, counts, strict=True) if 0 < kept < n)
    stream, gains, signs_left = (
        plane_of(tensors["masks"], "masks"),
        tensors["gains"],
        plane_of(tensors["signs"], "signs"),
    )
    check(
        coded <= (8 * len(stream) + 64) * 46_000,
        f"{coded} weights in a stream of {len(stream)} bytes",
    )
    check(gains.dtype == np.dtype("<f4") and len(gains) == len(entries), "the number of gains")
    check(
        bool(np.isfinite(gains).all() and (gains >= 0).all()),
        "a gain that is negative or not a number",
    )
    models = [Model.of(entry[5]) for entry in entries]
    for shape, size, kept, model in zip(shapes, sizes, counts, models, strict=True):
        if entropy_coding.is_coded_by_rows(shape, kept, model):
            fits = entropy_coding.may_be_unpacked(size, 8 * len(stream))
            check(
                fits,
                f"a layer of {size} weights coded row by row in a stream of {len(stream)} bytes",
            )
    masks = entropy_coding.decode(stream, shapes, counts, models)
    layers = []
    for entry, gain, model in zip(entries, gains, models, strict=True):
        name, number, shape, kept, signs, _ = entry
        mask, stored = next(masks), None
        if signs == "stored":
            size = -(-kept // 8)
            check(len(signs_left) >= size, f"too few signs for layer {name:.40}")
            stored, signs_left = signs_left[:size], signs_left[size:]
            check(
                kept % 8 == 0 or int(stored[-1]) >> kept % 8 == 0,
                f"signs of layer {name:.40} that belong to no weight",
            )
        layers.append(
            Layer(name, number, tuple(shape), kept, float(gain), mask, signs, stored, model)
        )
    check(next(masks, None) is None and not len(signs_left), "signs are left over")
    return layers


_NETWORK: dict[str, tuple[type, float, float]] = {  # type, lowest, highest
    "num_classes": (int, 1, 1 << 20), "channels": (int, 1, 1 << 12), "width_mult": (float, 1e-3, 100),
    "head_bias": (bool, 0, 1), "ancestor": (bool, 0, 1),
}  # fmt: skip


def _network(network: Any, size: Any, classes: Sequence[str]) -> dict[str, Any] | None:
    """The network's options, checked: they build it."""
    if network is None:
        return None
    check(
        isinstance(network, dict) and set(network) == {"name", "bn_type", "input_size", *_NETWORK},
        "the network's options",
    )
    check(is_name(network["name"]) and is_name(network["bn_type"]), "the network's name")
    check(
        whole_numbers(network["input_size"], 1 << 14) and len(network["input_size"]) == 2,
        "the network's input size",
    )
    for name, (kind, low, high) in _NETWORK.items():
        value = network[name]
        check(
            type(value) is kind or (kind is float and type(value) is int), f"the network's {name}"
        )
        check(low <= value <= high, f"the network's {name} = {value}")
    check(
        size is None or size == [network["channels"], *network["input_size"]],
        "images of another size than the network's",
    )
    check(not classes or len(classes) == network["num_classes"], "other classes than the network's")
    return dict(network)
