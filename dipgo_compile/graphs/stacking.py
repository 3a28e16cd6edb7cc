"""Parts of the denoiser's graph, repeated for several calls at once: one call's samples after another's.

The graph was exported for the batch of one call. What a tensor is for all calls follows from what it depends
on: on the timestep alone, it is a table that is known now; on conditions alone, it is tiled; on both, its
node is repeated on inputs of the larger batch. Not every operator has its batch in front, so the outcome is
compared with the original, on inputs made up for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from dipgo_compile.graphs.subgraph import boundary, evaluate
from dipgo_compile.program import Array, BlockGraph, TensorSpec

TIMESTEP, CONDITIONS = "timestep", "conditions"
BOTH = frozenset({TIMESTEP, CONDITIONS})
ADDED = "dipgo_compile.stacked"  # metadata of the nodes that were added to a graph
TOLERANCE = 1e-4  # relative to the largest value: float32 sums in another order
NUM_OUTPUTS = 18  # the opset since which Split is told into how many parts, if they are equal
HALF_TOLERANCE = 4e-3  # four units in the last place of a float16


class _NotInFrontError(Exception):
    """The tensor has no batch in front."""


def dependencies(graph: BlockGraph, model: ir.Model) -> dict[ir.Value, frozenset[str]]:
    """For every tensor that depends on nothing else but weights, which of timestep and conditions it depends
    on.
    """
    kinds = {graph.timestep: TIMESTEP, **dict.fromkeys(graph.conditions, CONDITIONS)}
    found = {value: frozenset({kinds[value.name]}) for value in model.graph.inputs if value.name in kinds}
    for node in model.graph:
        read = [value for value in node.inputs if value is not None and not value.is_initializer()]
        if all(value in found for value in read):
            made: frozenset[str] = frozenset().union(*(found[value] for value in read))
            found.update(dict.fromkeys(node.outputs, made))
    return found


def at(tensor: str, timestep: float) -> str:
    """The name of a stacked tensor's part."""
    return f"{tensor}@t{timestep:.10g}"


def remove_stacked(model: ir.Model) -> None:
    """Take everything out of a model that stackers added to it."""
    model.graph.remove([node for node in model.graph if ADDED in node.metadata_props], safe=True)
    for name, value in list(model.graph.initializers.items()):
        if ADDED in value.metadata_props:
            del model.graph.initializers[name]


class Stacker:
    """Adds stacked tensors to a model."""

    def __init__(self, model: ir.Model, graph: BlockGraph) -> None:
        self._model, self._graph = model, graph
        self._batch = graph.tensors[graph.output].shape[0]
        self.depends = dependencies(graph, model)
        self._values = {value.name: value for value in self.depends}
        self._made: dict[tuple[ir.Value, tuple[float, ...]], ir.Value] = {}
        self._groups: dict[tuple[float, ...], int] = {}

    def clear(self) -> None:
        """Forget what was stacked."""
        remove_stacked(self._model)
        self._made.clear()
        self._groups.clear()

    def stack(self, tensor: str, timesteps: tuple[float, ...]) -> bool:
        """Add what computes ``tensor`` at every timestep, under the names of ``at``. False where that can't
        be done, or gives something else.
        """
        try:
            self._split(self._values[tensor], timesteps)
        except _NotInFrontError:
            return False
        return self._agrees(tensor, timesteps)

    def _split(self, value: ir.Value, timesteps: tuple[float, ...]) -> None:
        whole = self._stacked(value, timesteps)
        parts = [at(str(value.name), timestep) for timestep in timesteps]
        outputs = [ir.Value(name=part, shape=value.shape, type=value.type) for part in parts]
        # No tensor of sizes: for many calls it would be stored outside the file, where ONNX Runtime, which
        # needs it to infer shapes, doesn't look.
        attributes = [ir.AttrInt64("axis", 0)]
        if self._model.opset_imports[""] >= NUM_OUTPUTS:
            attributes.append(ir.AttrInt64("num_outputs", len(parts)))
        self._add("Split", [whole], outputs, attributes)

    def _agrees(self, tensor: str, timesteps: tuple[float, ...]) -> bool:
        """Whether the parts are what calls compute one by one, on conditions made up for it."""
        conditions = {name: _made_up(self._graph.tensors[name]) for name in self._graph.conditions}
        try:
            parts = tuple(at(tensor, timestep) for timestep in timesteps)
            (stacked,) = self._evaluate([conditions], parts)
        except Exception:  # ONNX Runtime raises a class per status code, without a common base
            return False
        single = self._evaluate([{**conditions, **self._at(timestep)} for timestep in timesteps], (tensor,))
        limit = HALF_TOLERANCE if stacked[0].dtype == np.float16 else TOLERANCE
        return all(
            one.shape == part.shape and np.allclose(one, part, limit, limit * np.abs(one).max())
            for (one,), part in zip(single, stacked, strict=True)
        )

    def _evaluate(self, feeds: Sequence[Mapping[str, Array]], outputs: tuple[str, ...]) -> list[list[Array]]:
        read = boundary(self._model, tuple(feeds[0]), outputs)
        return evaluate(self._model, [{name: feed[name] for name in read} for feed in feeds], outputs)

    def _stacked(self, value: ir.Value, timesteps: tuple[float, ...]) -> ir.Value:
        if value.is_initializer() or not self.depends[value]:
            return value  # weights, and what is computed from them
        key = (value, timesteps)
        if key not in self._made:
            depends = self.depends[value]
            if depends == BOTH:
                self._repeat(value.producer(), timesteps)
            else:
                front = self._table if depends == {TIMESTEP} else self._tiled
                self._made[key] = front(value, timesteps)
        return self._made[key]

    def _table(self, value: ir.Value, timesteps: tuple[float, ...]) -> ir.Value:
        """What depends on the timestep alone, known now."""
        shape = self._shape_in_front(value)
        rows = evaluate(self._model, [self._at(timestep) for timestep in timesteps], [str(value.name)])
        return self._constant(
            self._name(value, timesteps), np.concatenate([np.broadcast_to(row, shape) for (row,) in rows])
        )

    def _tiled(self, value: ir.Value, timesteps: tuple[float, ...]) -> ir.Value:
        """What depends on conditions alone, once for every call."""
        shape = self._shape_in_front(value)
        if value.shape is None or value.shape.numpy() != shape:
            return value  # one row, which is broadcast to all samples
        name = self._name(value, timesteps)
        times = self._constant(f"{name}.times", np.array([len(timesteps)] + [1] * (len(shape) - 1)))
        return self._add("Tile", [value, times], [self._larger(value, timesteps)])

    def _repeat(self, node: ir.Node | None, timesteps: tuple[float, ...]) -> None:
        assert node is not None  # an input of the graph depends on one thing
        inputs = [None if value is None else self._stacked(value, timesteps) for value in node.inputs]
        if node.op_type in ("Reshape", "Expand"):
            inputs[1] = self._larger_shape(node, timesteps)
        outputs = [self._larger(value, timesteps) for value in node.outputs]
        self._add(node.op_type, inputs, outputs, node.attributes.values(), node.domain)
        pairs = zip(node.outputs, outputs, strict=True)
        self._made |= {(value, timesteps): output for value, output in pairs}

    def _larger_shape(self, node: ir.Node, timesteps: tuple[float, ...]) -> ir.Value:
        """The shape that a node is asked for, if the batch is written into it with the larger one."""
        value = node.inputs[1]
        known = None if value is None else ir.convenience.get_const_tensor(value)
        if known is None or value is None:
            raise _NotInFrontError
        shape = known.numpy().copy()
        if shape.size and shape[0] == self._batch:
            shape[0] *= len(timesteps)
        return self._constant(f"{self._name(node.outputs[0], timesteps)}.shape", shape)

    def _shape_in_front(self, value: ir.Value) -> tuple[int, ...]:
        """The value's shape with a row for every sample. Raises _NotInFrontError."""
        shape = value.shape.numpy() if value.shape is not None and value.shape.is_static() else ()
        if shape and shape[0] == self._batch:
            return shape
        if len(shape) > 1 and shape[0] == 1:
            return (self._batch, *shape[1:])
        raise _NotInFrontError

    def _larger(self, value: ir.Value, timesteps: tuple[float, ...]) -> ir.Value:
        batch, *rest = self._shape_in_front(value)
        shape = ir.Shape([batch * len(timesteps), *rest])
        return ir.Value(name=self._name(value, timesteps), shape=shape, type=value.type)

    def _name(self, value: ir.Value, timesteps: tuple[float, ...]) -> str:
        return f"{value.name}@{self._groups.setdefault(timesteps, len(self._groups))}"

    def _constant(self, name: str, array: Array) -> ir.Value:
        data = ir.tensor(array, name=name)
        kind = ir.TensorType(data.dtype)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=kind, const_value=data)
        value.metadata_props[ADDED] = ""
        self._model.graph.register_initializer(value)
        return value

    def _add(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[ir.Value],
        attributes: Iterable[ir.Attr] = (),
        domain: str = "",
    ) -> ir.Value:
        """Append a node; its first output."""
        node = ir.Node(domain, kind, inputs, list(attributes), outputs=outputs, metadata_props={ADDED: ""})
        node.name = str(outputs[0].name)
        self._model.graph.append(node)
        return node.outputs[0]

    def _at(self, timestep: float) -> dict[str, Array]:
        spec = self._graph.tensors[self._graph.timestep]
        return {self._graph.timestep: np.full(spec.shape, timestep, dtype=spec.dtype)}


def _made_up(spec: TensorSpec) -> Array:
    if np.issubdtype(np.dtype(spec.dtype), np.floating):
        return np.random.default_rng(0).standard_normal(spec.shape).astype(spec.dtype)
    return (np.arange(math.prod(spec.shape)) % 2).astype(spec.dtype).reshape(spec.shape)  # ids of classes
