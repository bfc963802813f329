"""The ticket: a binary subnetwork as a file of under one bit per weight. numpy only;
docs/ticket-format.md is the specification.

A ticket holds a seed and a coded mask instead of weights: signs follow from the seed (or are
stored, for networks of another origin), magnitudes are one gain a layer. A damaged or hostile file
raises `TicketError` before memory of its size is allocated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import hub, rng
from ..errors import TicketError
from ..models.operations import Graph, check_graph, parse
from ..names import is_name
from . import container, entropy_coding
from .container import check, whole_numbers
from .entropy_coding import Model
from .fold import batch_norms, fold, folded_norms
from .layer import Layer, Plane
from .parse_layers import MOST_ROWS, parse_layers
from .state import group_names, names_of, to_bfloat16, ungroup

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..subnetwork import Subnetwork

VERSION = 2
"""Version of the file format. Newer ones are refused; older ones are read for ever. What version 1
can say is written in version 1.
"""

DEFAULT_MOST_WEIGHTS = 1 << 30
"""Number of weights that a reader accepts by default: their planes take 128 MiB each."""


@dataclass
class Ticket:
    """A subnetwork of random binary weights, and how it was found.

    Attributes:
        network: the name and the options that `biprop.models.build.build` needs, or None for a
            network of the user's own.
        seed: of the signs, 0 .. 2**64 - 1; None where no layer takes its signs from it.
        layers: the masked layers, in the network's order.
        state: every other tensor of the network by its name in the state dict: batch norm, biases,
            layers kept dense; float32.
        input_size: (channels, height, width), or None if it is not known.
        classes: names, in the order of the outputs; empty if they are not known.
        mean, std: of the normalisation, per channel, for pixels in [0, 1]; empty if there is none.
        found: how the subnetwork was found: options that differ from the default, accuracies, date,
            versions. Plain JSON.
        compact: whether `state` is stored in 16 bits (bfloat16) a number, and folded batch norms in
            two numbers a channel (`fold`).
        graph: the operations of a network of the user's own; None for one of biprop's networks, and
            where it is not known: then only the user's class can compute it.
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
    graph: Graph | None = None

    def __repr__(self) -> str:
        network = self.network["name"] if self.network else "a network of the user's own"
        share = 100 * self.kept / max(1, self.weights)
        kept = f"{self.kept:,} of {self.weights:,} weights kept ({share:.2f} %)"
        return f"Ticket({network}, {len(self.layers)} layers, {kept})"

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of one sample that the network takes, for images (channels, height, width);
        None if it is not known.
        """
        if self.graph:
            return self.graph.input[1:]
        if self.network:
            return (self.network["channels"], *self.network["input_size"])
        return self.input_size

    @property
    def takes_pixels(self) -> bool:
        """Whether floats are pixels in 0 .. 1; values of arrays are normalised as they are."""
        options = self.found.get("options")
        is_array = isinstance(options, dict) and options.get("set") == "arrays"
        shape = self.input_shape
        return not is_array and shape is not None and len(shape) == 3

    @property
    def output_shape(self) -> tuple[int, ...] | None:
        """The shape of the output for one sample, (classes,) of a classifier; None if it is not
        known.
        """
        if self.graph:
            return check_graph(self.graph, self.shapes)[-1][1:]
        return (self.network["num_classes"],) if self.network else None

    @property
    def weights(self) -> int:
        """Number of masked weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def kept(self) -> int:
        """Number of weights that all masks keep together."""
        return sum(layer.kept for layer in self.layers)

    @property
    def left_out(self) -> int:
        """How many numbers of `state` the file leaves out (running statistics of folded norms)."""
        folded = self._folded_norms()
        return sum(2 * self.state[f"{prefix}.weight"].size for prefix in folded)

    def sign_plane(self, layer: Layer) -> Plane:
        """The plane of all signs of a layer, 1 for +; pruned weights of stored signs have 0."""
        if layer.signs == "seed":
            assert self.seed is not None
            signs = rng.sign_bits(self.seed, layer.number, layer.weights)
        elif layer.signs == "positive":
            signs = np.ones(layer.weights, dtype=np.uint8)
        else:
            signs = _spread_signs(layer)
        return np.packbits(signs, bitorder="little")

    def weight(self, layer: Layer) -> NDArray[np.float32]:
        """The weight that the layer computes with: float32 of its shape, values -gain, 0, +gain."""
        bits = np.unpackbits(self.sign_plane(layer), count=layer.weights, bitorder="little")
        plus = bits.reshape(layer.shape)
        gain = np.float32(layer.gain)
        return np.where(layer.kept_mask(), np.where(plus, gain, -gain), np.float32(0))

    def save(self, path: str | Path) -> int:
        """Write the ticket to `path`, by an atomic write.

        Returns:
            The file's size in bytes.

        Raises:
            UserError: it cannot be written.
        """
        return container.save(path, self.to_bytes())

    @staticmethod
    def load(path: str | Path, most_weights: int = DEFAULT_MOST_WEIGHTS) -> Ticket:
        """Read a ticket; the same file gives the same bits on every machine.

        Args:
            path: of the file; or hf://USER/REPO[@REVISION][/FILE], a ticket on the Hugging Face
                Hub, which is downloaded (`pip install 'biprop[hub]'`). A commit as the revision
                gives the same bytes for ever.
            most_weights: refuse more, before memory is taken for them: a small file can be a large
                mask that keeps nothing.

        Raises:
            TicketError: no such file, or not a ticket that this version reads; the message says
                why.
            UserError: the Hub has no such ticket, or cannot be reached.
        """
        return container.load(
            hub.fetch(str(path)) if hub.is_address(path) else path,
            "ticket",
            lambda content: Ticket.from_bytes(content, most_weights),
        )

    def to_bytes(self) -> bytes:
        """The content of the file, as `save` writes it.

        A ticket that was read gives the same bytes again.
        """
        stream, models = self.coded_masks()
        folded = self._folded_norms()
        directory = group_names({name: value.shape for name, value in self.state.items()}, folded)
        tensors: dict[str, tuple[str, NDArray[Any]]] = {
            "gains": ("F32", np.array([layer.gain for layer in self.layers], dtype="<f4")),
            "state": self._state_tensor(directory),
            "masks": ("U8", stream),
            "signs": ("U8", self._stored_signs()),
        }
        description = self._description(models, directory)
        if not folded and not self.graph:
            return container.pack("ticket", 1, description, tensors)
        description["graph"] = self.graph.as_json() if self.graph else None
        return container.pack("ticket", VERSION, description, tensors)

    def _folded_norms(self) -> dict[str, float]:
        """The batch norms whose running statistics are left out -> epsilon."""
        if not self.compact:
            return {}
        return folded_norms(self.state, batch_norms(self.network, self.graph, self.state))

    def _description(self, models: Sequence[Model], directory: list[list[Any]]) -> dict[str, Any]:
        """What the header says of the ticket, as plain JSON."""
        return {
            "network": self.network,
            "seed": None if self.seed is None else str(self.seed),
            "generator": rng.GENERATOR_VERSION,
            "layers": list(map(_entry_of, self.layers, models)),
            "state": directory,
            "input_size": self.input_size,
            "classes": self.classes,
            "mean": self.mean,
            "std": self.std,
            "found": self.found,
        }

    def _state_tensor(self, directory: list[list[Any]]) -> tuple[str, NDArray[Any]]:
        """Type and numbers of the state, in the directory's order."""
        ordered = [self.state[name].ravel() for name, _ in names_of(directory)]
        values = np.concatenate([np.empty(0, np.float32), *ordered]).astype("<f4")
        return ("BF16", to_bfloat16(values)) if self.compact else ("F32", values)

    def _stored_signs(self) -> Plane:
        """The planes of the layers that store their signs, one after the other."""
        planes = [layer.stored for layer in self.layers if layer.stored is not None]
        return np.concatenate([np.empty(0, np.uint8), *planes])

    @staticmethod
    def from_bytes(content: bytes, most_weights: int = DEFAULT_MOST_WEIGHTS) -> Ticket:
        """The ticket of a file's content; see `load`.

        Raises:
            TicketError: it is not one that this version reads.
        """
        with container.errors_as_damage():
            return _read(*container.unpack_versioned("ticket", VERSION, content), most_weights)

    def to_model(self, model: nn.Module | None = None, on_pixels: bool = False) -> nn.Module:
        """The network in PyTorch, in evaluation mode.

        It is an ordinary module, whose masked layers have the weights -gain, 0, +gain.

        Args:
            model: a new module of the network's class, which is filled; needed only for a network
                of the user's own without a graph. Where it is None, a graph becomes a module that
                computes its operations, in evaluation, with the names of the user's state dict.
            on_pixels: the module takes pixels in [0, 1] and normalises them itself: RobustBench's
                convention. Without, it takes what was normalised by `mean` and `std`.

        Returns:
            The module, which gives logits for a batch [B, ...] of floats, see `input_shape`.

        Raises:
            TicketError: the ticket does not fit the model, or has no normalisation for `on_pixels`.
        """
        from .torch import OnPixels, build_from, fill, interpreter

        if on_pixels and not self.mean:
            raise TicketError(
                "the ticket has no normalisation: normalise the input, and leave out on_pixels"
            )
        tensors = {layer.key: partial(self.weight, layer) for layer in self.layers}
        tensors |= {name: partial(np.array, value) for name, value in self.state.items()}
        shapes = self.shapes
        if model is None and self.graph:
            filled = interpreter(self.graph, shapes)
        elif model is None:
            filled = build_from(self.network, shapes)
        else:
            filled = model
            own = self.graph.constants if self.graph else ()  # the module computes these itself
            tensors = {name: make for name, make in tensors.items() if name not in own}
            shapes = {name: shape for name, shape in shapes.items() if name not in own}
        fill(filled, tensors, shapes)
        return OnPixels(filled, self.mean, self.std) if on_pixels else filled

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors, by their names in the state dict."""
        shapes = {layer.key: layer.shape for layer in self.layers}
        return shapes | {name: value.shape for name, value in self.state.items()}

    @staticmethod
    def from_model(
        model: nn.Module, subnetwork: Subnetwork, example: Tensor | None = None, **about: Any
    ) -> Ticket:
        """The ticket of a model that `convert` made a subnetwork of; checked, weight by weight.

        Args:
            model: the module, or a copy of it (`copy.deepcopy`, EMA), which is packed with its own
                masks. Wrappers (DataParallel, DistributedDataParallel, AveragedModel,
                `torch.compile`) leave no trace in the ticket; layers that took the place of masked
                ones are dense.
            subnetwork: what `convert` returned for it.
            example: a batch as the model takes it, [B, ...]: for a network of the user's own. The
                ticket then holds its operations (`graph`), and is enough by itself.
            about: `network`, `input_size`, `classes`, `mean`, `std`, `found` and `compact` of the
                ticket.

        Raises:
            TicketError: a layer cannot be rebuilt exactly, is sharded or float64, or the subnetwork
                is another model's; the message says what to pass.
            UserError: the model cannot be traced with this example; the message names the module
                and the operation.
        """
        from .torch import content_of

        content = content_of(model, subnetwork)
        network = about.pop("network", None)
        ticket = Ticket(network, content.seed, content.layers, content.state, **about)
        if example is not None:
            ticket._trace(model, example)
        if ticket.compact:
            norms = batch_norms(network, ticket.graph, ticket.state)
            ticket.state = fold(ticket.state, norms)
        try:
            rebuilt = Ticket.from_bytes(ticket.to_bytes(), ticket.weights)
        except ValueError as e:
            raise TicketError(f"this network cannot be packed: {e}") from None
        content.check_weights(rebuilt.weight(layer) for layer in rebuilt.layers)
        return ticket

    def _trace(self, model: nn.Module, example: Tensor) -> None:
        """Add the graph of a model, whose outputs for the example are compared."""
        from .torch import check_same, plain_copy, traced

        if self.network is not None:
            raise TicketError(
                "network and example: pass one of them; a network has no graph beside"
            )
        plain = plain_copy(model, map(self.weight, self.layers))
        self.graph, constants = traced(plain, example)
        self.state |= constants
        check_same(self.to_model(), plain, example)

    def bits(self, layer: Layer) -> float:
        """Bits that the layer's mask takes in the file, to a fraction of a bit.

        Stored signs come on top.
        """
        model = self.model_of(layer)
        if entropy_coding.is_coded_by_rows(layer.shape, layer.kept, model):
            return entropy_coding.cost(layer.kept_mask(), model)
        return entropy_coding.cost_of_constant(layer.kept, layer.weights)

    def coded_masks(self) -> tuple[NDArray[np.uint8], list[Model]]:
        """The stream of all masks, as in the file, and how each of them is coded."""
        models = self._models()
        masks = [layer.mask for layer in self.layers]
        shapes = [layer.shape for layer in self.layers]
        kept = [layer.kept for layer in self.layers]
        return entropy_coding.encode_planes(masks, shapes, kept, models), models

    def _models(self) -> list[Model]:
        """How each mask is coded: by rows only as long as the rows of all are within the limit."""
        models, rows = [], 0
        for layer in self.layers:
            model = self.model_of(layer)
            rows += entropy_coding.rows_of(layer.shape, model)
            models.append(model if rows <= MOST_ROWS else Model())
        return models

    def model_of(self, layer: Layer) -> Model:
        """How the layer's mask is coded."""
        return entropy_coding.best_model(layer.kept_mask()) if layer.model is None else layer.model


def _spread_signs(layer: Layer) -> NDArray[np.uint8]:
    """The stored signs of the kept weights, at the places of the kept weights among all."""
    assert layer.stored is not None
    signs = np.zeros(layer.weights, dtype=np.uint8)
    kept = layer.kept_mask().ravel()
    signs[kept] = np.unpackbits(layer.stored, count=layer.kept, bitorder="little")
    return signs


def _entry_of(layer: Layer, model: Model) -> list[Any]:
    """What the description says of a layer."""
    return [layer.name, layer.number, list(layer.shape), layer.kept, layer.signs, str(model)]


def _read(
    version: int, description: Any, tensors: Mapping[str, NDArray[Any]], most_weights: int
) -> Ticket:
    check(isinstance(description, dict), "the description is not an object")
    check(set(tensors) == {"gains", "state", "masks", "signs"}, f"tensors {sorted(tensors)!r:.80}")
    _check_generator(description["generator"])
    seed = _seed(description["seed"])
    layers = parse_layers(description["layers"], tensors, seed is not None, most_weights)
    state = ungroup(description["state"], tensors["state"], may_fold=version > 1)
    _check_names_differ(layers, state)
    size, classes = description["input_size"], description["classes"]
    _check_size(size)
    check(isinstance(description["found"], dict), "how it was found")
    _check_classes(classes)
    mean, std = description["mean"], description["std"]
    _check_normalisation(mean, std, size)
    ticket = Ticket(
        network=_network(description["network"], size, classes),
        seed=seed,
        layers=layers,
        state=state,
        input_size=tuple(size) if size else None,
        classes=classes,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        found=description["found"],
        compact=tensors["state"].dtype == np.dtype("<u2"),
    )
    if version > 1 and description["graph"] is not None:
        ticket.graph = parse(description["graph"])
        _check_graph_fits(ticket)
    return ticket


def _check_graph_fits(ticket: Ticket) -> None:
    """The graph fits the tensors, and what else the ticket says of the network."""
    graph = ticket.graph
    assert graph
    check(ticket.network is None, "a graph of a network of the registry")
    check(set(graph.constants) <= set(ticket.state), "constants that the state does not have")
    output = check_graph(graph, ticket.shapes)[-1]
    shape = graph.input[1:]
    check(ticket.input_size in (None, shape), "images of another size than the graph's")
    fits_classes = not ticket.classes or output[1:] == (len(ticket.classes),)
    check(fits_classes, "other classes than the graph's")
    check(len(ticket.mean) in (0, 1, *shape[:1]), "mean and std are of other inputs")


def _check_generator(version: Any) -> None:
    if version != rng.GENERATOR_VERSION or type(version) is not int:
        raise TicketError(
            f"generator {version!r:.20}: this biprop has version {rng.GENERATOR_VERSION}: install"
            " a newer one"
        )


def _seed(text: Any) -> int | None:
    if text is None:
        return None
    is_decimal = isinstance(text, str) and re.fullmatch("0|[1-9][0-9]{0,19}", text) is not None
    check(is_decimal, f"seed {text!r:.40}")
    seed = int(text)
    check(seed < 2**64, "the seed is 2**64 or more")
    return seed


def _check_names_differ(layers: Sequence[Layer], state: Mapping[str, Any]) -> None:
    keys = [layer.key for layer in layers]
    check(len({*keys, *state}) == len(keys) + len(state), "a weight that comes twice")


def _check_size(size: Any) -> None:
    is_shape = size is None or (whole_numbers(size, 1 << 20) and len(size) == 3)
    check(is_shape, "the size of the images")


def _check_classes(classes: Any) -> None:
    are_names = isinstance(classes, list) and all(map(is_name, classes))
    check(are_names, "the names of the classes")


def _check_normalisation(mean: Any, std: Any, size: list[int] | None) -> None:
    check(_are_numbers(mean) and _are_numbers(std), "mean or std")
    fit_together = len(mean) == len(std) and all(value > 0 for value in std)
    check(fit_together, "mean and std do not fit together")
    fit_images = not mean or size is None or len(mean) in (1, size[0])
    check(fit_images, "mean and std are of other images")


def _are_numbers(values: Any) -> bool:
    if not isinstance(values, list):
        return False
    return all(type(value) in (int, float) and abs(value) < 1e38 for value in values)


_NETWORK: dict[str, tuple[type, float, float]] = {  # type, lowest, highest
    "num_classes": (int, 1, 1 << 20),
    "channels": (int, 1, 1 << 12),
    "width_mult": (float, 1e-3, 100),
    "head_bias": (bool, 0, 1),
    "ancestor": (bool, 0, 1),
}


def _network(network: Any, size: Any, classes: Sequence[str]) -> dict[str, Any] | None:
    """The network's options, checked: a network is built from them."""
    if network is None:
        return None
    names = {"name", "bn_type", "input_size", *_NETWORK}
    check(isinstance(network, dict) and set(network) == names, "the network's options")
    check(is_name(network["name"]) and is_name(network["bn_type"]), "the network's name")
    sides = network["input_size"]
    check(whole_numbers(sides, 1 << 14) and len(sides) == 2, "the network's input size")
    for name in _NETWORK:
        _check_option(name, network[name])
    fits_images = size is None or size == [network["channels"], *sides]
    check(fits_images, "images of another size than the network's")
    fits_classes = not classes or len(classes) == network["num_classes"]
    check(fits_classes, "other classes than the network's")
    return dict(network)


def _check_option(name: str, value: Any) -> None:
    kind, low, high = _NETWORK[name]
    has_type = type(value) is kind or (kind is float and type(value) is int)
    check(has_type, f"the network's {name}")
    check(low <= value <= high, f"the network's {name} = {value}")
