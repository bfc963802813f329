"""From a PyTorch module to a graph of operations, by `torch.export` with a dynamic batch.

The module is traced as it computes in evaluation, with plain layers in the place of masked ones.
What depends on no input is computed once and becomes a constant. Anything else outside the list of
`operations.OPERATIONS` is refused in one line that names module and operation.
"""

from __future__ import annotations

import io
import logging
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from ..errors import UserError, one_line
from .aten import CONVERTERS, MOVES, VIEWS, Builder, Constant, RefusedError, Value, shape_of
from .operations import Graph, Operation, Shape


@dataclass
class Traced:
    """A module as a graph.

    Attributes:
        graph: the operations.
        constants: the tensors that are not in the module's state dict, float32, by the names of
            `Graph.constants`.
    """

    graph: Graph
    constants: dict[str, Tensor]


def trace(model: nn.Module, example: Any) -> Traced:
    """The graph of a module of plain layers.

    Args:
        model: a module in evaluation mode; it may be changed by running it.
        example: a batch as the module takes it: a tensor [B, ...] of floats, or of whole numbers
            for embeddings. B is at least 1; the graph takes any other.

    Raises:
        UserError: an example that is no such tensor; or a module that cannot be traced: data in its
            control flow, several outputs, an operation that graphs do not have. The message names
            the module and the operation.
    """
    _check_example(example)
    batch = example if len(example) > 1 else torch.cat([example, example])
    program = _exported(model, batch)
    tracer = _Tracer(program, Builder(_new_prefix(model)))
    tracer.read_placeholders()
    for node in program.graph.nodes:
        tracer.step(node)
    return tracer.traced()


def _new_prefix(model: nn.Module) -> str:
    """A name that no part of the model has."""
    prefix = "constants"
    while hasattr(model, prefix):
        prefix += "_"
    return prefix


def _check_example(example: Any) -> None:
    if not isinstance(example, Tensor):
        raise UserError(
            f"example is of type {type(example).__name__}: must be one tensor, a batch as the model"
            " takes it; models of other inputs have no graph"
        )
    is_index = example.dtype in (torch.int64, torch.int32)
    if not example.is_floating_point() and not is_index:
        raise UserError(f"example is {example.dtype}: must be floats, or whole numbers (int64)")
    if example.dim() < 2 - is_index or not example.numel():
        raise UserError(
            f"example of shape {list(example.shape)}: must be a batch [B, ...] with B at least 1"
        )


def _exported(model: nn.Module, batch: Tensor) -> ExportedProgram:
    where: list[str] = []
    try:
        with torch.no_grad(), _quietly(), _without_fast_paths(), _names_of_running(model, where):
            shapes = ({0: Dim("batch")},)
            return torch.export.export(model, (batch,), dynamic_shapes=shapes, strict=False)
    except Exception as e:  # whatever the module and the tracer raise
        module = f"module {where[-1]!r}" if where and where[-1] else "the model"
        raise UserError(f"{module} cannot be traced: {_reason(e)}") from None


def _reason(error: Exception) -> str:
    """Why a module could not be traced, in one line."""
    name = type(error).__name__
    if "DataDependent" in name or "data-dependent" in str(error).lower():
        return "its control flow depends on the data; torch.where computes both cases"
    if "Constraint" in name or "specialized" in str(error):
        return "it computes for one batch size only; take x.shape[0] where it says len(x)"
    return f"{name}: {one_line(error)}"


@contextmanager
def _quietly() -> Iterator[None]:
    """While the block runs, nothing is printed on standard error: the exporter prints pages of its
    own where it fails, beside the exception.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@contextmanager
def _without_fast_paths() -> Iterator[None]:
    """While the block runs, attention is computed by its ordinary operations."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _names_of_running(model: nn.Module, where: list[str]) -> Iterator[None]:
    """While the block runs, `where` ends in the name of the module that is being computed."""
    handles = []
    for name, module in model.named_modules():

        def enter(_: nn.Module, __: Any, name: str = name) -> None:
            where.append(name)

        def leave(_: nn.Module, __: Any, ___: Any) -> None:
            where.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class _Tracer:
    """Reads the nodes of an exported program, in order."""

    program: ExportedProgram
    builder: Builder
    input: Shape = ()
    results: dict[fx.Node, Any] = field(default_factory=dict)
    indices: bool = False
    output: Value | None = None
    views: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def read_placeholders(self) -> None:
        """Parameters, buffers and constants, and the input."""
        nodes = {node.name: node for node in self.program.graph.nodes if node.op == "placeholder"}
        for spec in self.program.graph_signature.input_specs:
            node = nodes[spec.arg.name]
            if spec.kind == InputKind.USER_INPUT:
                self.input = shape_of(node)
                self.indices = not node.meta["val"].is_floating_point()
                self.results[node] = Value(0)
                continue
            target = spec.target or ""
            named = spec.kind == InputKind.PARAMETER or spec.persistent
            values: Mapping[str, Any] = self.program.constants
            if target in self.program.state_dict:
                values = self.program.state_dict
            self.results[node] = Constant(values[target], target if named else "")

    def step(self, node: fx.Node) -> None:
        """Read one node."""
        if node.op == "call_function":
            try:
                self.call(node)
            except RefusedError as e:
                raise UserError(f"{_module_of(node)} computes {e}: {_LISTED}") from None
        elif node.op == "output":
            self.finish(node)
        elif node.op != "placeholder":
            raise UserError(f"{_module_of(node)} computes {node.op} {node.target}: {_LISTED}")

    def call(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            whole: Any = node.args[0]
            index: Any = node.args[1]
            if index < len(self.results[whole]):  # else the places of maxima, which no graph has
                self.results[node] = self.results[whole][index]
            self.views[node] = whole
            return
        if _is_symbolic(node):
            return
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            raise RefusedError(str(target))
        name = _name(target)
        if name in _CHECKS:
            return
        arguments = _arguments(node, target)
        self.results[node] = self.result(node, name.rstrip("_"), arguments)
        source = next(iter(node.all_input_nodes), None)
        if name in VIEWS and source:
            self.views[node] = source
        if _is_inplace(name):
            self.overwrite(node, node.args[0])

    def result(self, node: fx.Node, name: str, arguments: dict[str, Any]) -> Any:
        """What a node gives: values of the graph, or constants."""
        read = [self.results.get(source) for source in node.all_input_nodes]
        are_constant = all(isinstance(result, Constant) for result in read)
        if are_constant and not (name in MOVES and read and read[0].name):  # type: ignore[union-attr]
            return self.folded(node)
        convert = CONVERTERS.get(name)
        if convert is None:
            raise RefusedError(str(node.target))
        try:
            return convert(self.builder, node, _looked_up(arguments, self.results))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RefusedError(f"{node.target} with arguments of another kind") from None

    def folded(self, node: fx.Node) -> Any:
        """What depends on no input, computed."""
        target: Any = node.target
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise RefusedError(f"{target}, which is random,")
        is_inplace = _is_inplace(_name(target))

        def value(source: fx.Node) -> Any:
            result = self.results.get(source)
            if not isinstance(result, Constant):
                raise RefusedError(f"{target} of the batch size")
            return result.value.clone() if is_inplace else result.value

        arguments: Any = fx.map_arg((node.args, dict(node.kwargs)), value)
        with torch.no_grad():
            result = target(*arguments[0], **arguments[1])
        if isinstance(result, tuple | list):
            return [Constant(part) for part in result]
        source = self.results.get(next(iter(node.all_input_nodes), None))  # type: ignore[arg-type]
        is_same = isinstance(source, Constant) and source.value is result
        return source if is_same else Constant(result)

    def overwrite(self, node: fx.Node, changed: Any) -> None:
        """The result of an operation in place is from here on what its first input holds.

        Raises:
            RefusedError: what is changed is also read under another shape, or is a parameter.
        """
        before = self.results.get(changed)
        if isinstance(before, Constant) and before.name:
            raise RefusedError(f"{node.target} on a parameter or buffer")
        others = [
            other
            for other in self.results
            if other not in (node, changed) and self.root(other) is self.root(changed)
        ]
        if any(user > node for other in others for user in other.users):
            raise RefusedError(f"{node.target} on a view")
        self.results[changed] = self.results[node]
        self.views[node] = changed

    def root(self, node: fx.Node) -> fx.Node:
        """The node whose memory this one's result lies in."""
        while node in self.views:
            node = self.views[node]
        return node

    def finish(self, node: fx.Node) -> None:
        """The output: one tensor of the input's batch."""
        specs = self.program.graph_signature.output_specs
        if any(spec.kind != OutputKind.USER_OUTPUT for spec in specs):
            raise UserError(
                "the model changes its buffers or its input in evaluation: a graph cannot"
            )
        (results,) = node.args
        count = len(results) if isinstance(results, tuple | list) else 1
        if count != 1:
            raise UserError(f"the model has {count} outputs: must be one tensor; wrap it")
        result = _looked_up({"output": results}, self.results)["output"]
        result = result[0] if isinstance(result, tuple | list) else result
        if not isinstance(result, Value) or result.number == 0:
            raise UserError("the model's output does not depend on its input, or is the input")
        self.output = result

    def traced(self) -> Traced:
        """The graph without what nothing reads."""
        assert self.output
        needed = _needed(self.builder.operations, self.output.number)
        numbers = {old: new for new, old in enumerate(sorted(needed - {0}), start=1)} | {0: 0}
        kept = tuple(
            Operation(o.op, tuple(numbers[i] for i in o.inputs), o.tensors, o.attributes)
            for number, o in enumerate(self.builder.operations, start=1)
            if number in needed
        )
        used = {name for operation in kept for name in operation.tensors}
        constants = {name: value for name, value in self.builder.constants.items() if name in used}
        if 0 not in needed:
            raise UserError("the model's output does not depend on its input")
        return Traced(Graph(self.input, kept, self.indices, tuple(constants)), constants)


_LISTED = "docs/ticket-format.md lists the operations that a ticket's graph has"
_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size")
"""Operations that compute nothing."""


def _name(target: Any) -> str:
    """The name of an operation, without its namespace and overload."""
    return str(target._schema.name).removeprefix("aten::")


def _is_inplace(name: str) -> bool:
    return name.endswith("_")


def _needed(operations: Sequence[Operation], output: int) -> set[int]:
    """Numbers of the values that the output depends on, itself included."""
    needed = {output}
    for number in range(output, 0, -1):
        if number in needed:
            needed.update(operations[number - 1].inputs)
    return needed


def _module_of(node: fx.Node) -> str:
    """The module that computes a node, for messages."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return "the model"
    path, kind = list(stack.values())[-1]
    kind = kind if isinstance(kind, str) else kind.__name__
    name = f"module {path!r}" if path else "the model"
    return f"{name} ({kind.rpartition('.')[2]})"


def _is_symbolic(node: fx.Node) -> bool:
    """Whether a node computes a size."""
    return isinstance(node.meta.get("val"), int | float | torch.SymInt | torch.SymFloat | bool)


def _arguments(node: fx.Node, target: Any) -> dict[str, Any]:
    """The arguments of a node by name, with the defaults of the others."""
    schema = target._schema.arguments
    given = {argument.name: value for argument, value in zip(schema, node.args, strict=False)}
    defaults = {argument.name: argument.default_value for argument in schema}
    return {**defaults, **given, **node.kwargs}


def _looked_up(arguments: dict[str, Any], results: Mapping[fx.Node, Any]) -> dict[str, Any]:
    """Arguments with results in the place of nodes; sizes stay nodes."""

    def look(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return results.get(value, value)
        if isinstance(value, tuple | list):
            return [look(part) for part in value]
        return value

    return {name: look(value) for name, value in arguments.items()}
