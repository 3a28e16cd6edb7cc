"""A denoiser that is an ONNX file: the same questions answered as for one in PyTorch (``source.Model``).

Nothing here runs the denoiser, and nothing needs PyTorch but its scheduler.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx_ir as ir

from dipgo_compile.errors import GraphError, InputError, MaskError, ModelError
from dipgo_compile.graphs.candidates import suggest
from dipgo_compile.graphs.foreign import keep_output, read, specialise, structure_sha256
from dipgo_compile.graphs.scopes import cut, known_scopes
from dipgo_compile.macs.counts import Macs
from dipgo_compile.macs.graph import count_graph_macs, idle_call_computes
from dipgo_compile.mask import ModelRef, Reuse
from dipgo_compile.models.base import GRANULARITIES, Geometry, InputSpec
from dipgo_compile.models.onnx_dims import input_shapes, meanings, unknown_sizes
from dipgo_compile.models.onnx_roles import Roles, describe, find_roles
from dipgo_compile.models.reading import GUIDANCE_ORDERS, ONNX_CLASS, OnnxFamily, Reading
from dipgo_compile.runtime import Runtime

SCHEDULER = Path("scheduler") / "scheduler_config.json"  # where exported pipelines keep it
TAKEN = frozenset({*inspect.signature(Runtime.denoise).parameters, "noise", "draw"})
"""Names that a program or ``Runtime.denoise`` gives a meaning of its own."""


@dataclass(frozen=True)
class OnnxModel:
    """A denoiser in an ONNX file. ``reading`` is what was told and what was guessed; ``notes`` has a sentence
    for each guess.

    ``given`` is the file's graph, free dimensions and all. ``names`` maps the inputs and the noise
    prediction to their names in the file. ``shapes`` has the inputs' dimensions: numbers, or names of
    ``SIZES``.
    """

    source: str
    reading: Reading
    roles: Roles
    given: ir.Model = field(repr=False)
    shapes: Mapping[str, tuple[int | str, ...]]
    names: Mapping[str, str]
    config_sha256: str
    cuts: tuple[str, ...]
    notes: tuple[str, ...]
    scheduler_class: str
    scheduler_config: Mapping[str, Any]
    _specialised: dict[Geometry, ir.Model] = field(default_factory=dict, repr=False, compare=False)

    class_name = ONNX_CLASS
    vae_scale_factor = 1

    @property
    def family(self) -> OnnxFamily:
        return OnnxFamily(self.guidance_order or GUIDANCE_ORDERS[0])

    @property
    def guidance_order(self) -> tuple[str, str] | None:
        """None where nobody told: a wrong order would guide away from the prompt."""
        return next((order for order in GUIDANCE_ORDERS if order == self.reading.guidance_order), None)

    @property
    def timestep_kind(self) -> str:
        return self.roles.timestep_kind

    @property
    def tokens(self) -> int:
        return self.reading.dims.get("tokens", 0)

    @property
    def config(self) -> Mapping[str, Any]:
        """What a bundle keeps of the file: its inputs and how it was read."""
        return {
            "inputs": [self._input(value) for value in self.given.graph.inputs],
            "reading": self.reading.to_json(),
            "in_channels": self.shapes[self.roles.sample][1],  # by these names diffusers' pipelines ask
            "sample_size": self.geometry().height,
        }

    def ref(self) -> ModelRef:
        return ModelRef(self.source, self.class_name, self.config_sha256, self.reading.to_json())

    @cached_property
    def scopes(self) -> tuple[str, ...]:
        """Every module scope, or every block between two cuts, in the order of the graph."""
        return self.cuts or known_scopes(self.given.graph)

    def geometry(
        self, batch: int | None = None, height: int | None = None, width: int | None = None
    ) -> Geometry:
        """Static sizes; ``height`` and ``width`` are the latents'. What is None is the file's own, or told
        by the reading, and for ``batch`` 1. Raises InputError where the file says otherwise.
        """
        asked = {"batch": batch, "height": height, "width": width}
        sizes = {}
        for (name, size), axis in zip(asked.items(), (0, 2, 3), strict=True):
            fixed = self.shapes[self.roles.sample][axis]
            known = size or self.reading.dims.get(name)
            if isinstance(fixed, int):
                if known not in (None, fixed):
                    raise self._fixed(name, fixed, known)
                known = fixed
            elif name == "batch":
                known = known or 1
            if known is None:
                raise unknown_sizes([f"the {name} of {self.roles.sample!r}"], f"--{name} N", self.source)
            sizes[name] = known
        return Geometry(**sizes, tokens=self.tokens)

    def inputs(self, geometry: Geometry) -> tuple[InputSpec, ...]:
        return self.family.inputs(self.config, geometry)

    def blocks(self, granularity: str = "block") -> tuple[str, ...]:
        """The pieces between cuts, or the scopes that ``scopes.suggest`` finds. Raises GraphError."""
        if self.cuts:
            return self.cuts
        if granularity not in GRANULARITIES:
            raise ModelError(f"unknown granularity {granularity!r}", available=GRANULARITIES)
        suggested = suggest(self.specialised(self.geometry()).graph, self.roles.sample, granularity)
        if not suggested:
            raise GraphError(
                "the file names no modules that could serve as blocks",
                where=self.source,
                mend="name tensors to cut at: --cuts T0,T1,T2; what lies between two of them is a block",
            )
        return suggested

    def graph(self, geometry: Geometry) -> ir.Model:
        """The graph for static sizes, to be changed at will. Weights stay in the file."""
        return self.specialised(geometry).clone()

    def macs(self, geometry: Geometry, scopes: Iterable[str], reuse: Reuse = "output") -> Macs:
        """MACs of one call for one sample. Raises MaskError for an unknown scope."""
        scopes, graph = tuple(scopes), self.specialised(geometry)
        macs = count_graph_macs(graph, geometry.batch, scopes)
        idle = idle_call_computes(graph.graph, self.roles.sample, self.roles.timestep, scopes)
        return replace(macs, idle=macs.glue if idle else 0)

    def macs_by_scope(self, geometry: Geometry, scopes: Iterable[str]) -> dict[str, int]:
        """As ``macs``, the scopes alone."""
        return dict(count_graph_macs(self.specialised(geometry), geometry.batch, tuple(scopes)).by_scope)

    def check_residuals(self, blocks: Sequence[str]) -> None:
        """A graph doesn't tell which tensor a module takes first, and so what its residual is. Raises
        MaskError.
        """
        raise MaskError(
            "the blocks of an ONNX file have no known residual",
            where=self.source,
            available=("output",),
            mend="make the mask with --reuse output",
        )

    def specialised(self, geometry: Geometry) -> ir.Model:
        """``graph``, shared by all who only look at it."""
        if geometry not in self._specialised:
            shapes = {spec.name: spec.spec.shape for spec in self.inputs(geometry)}
            made = specialise(self.given, shapes)
            self._check_prediction(made.graph.outputs[0], shapes[self.roles.sample])
            self._specialised[geometry] = made
        return self._specialised[geometry]

    def _check_prediction(self, prediction: ir.Value, sample: tuple[int, ...]) -> None:
        shape = None if prediction.shape is None else prediction.shape.dims
        batch, channels, *image = sample
        if shape is None or len(shape) != len(sample) or not isinstance(shape[1], int):
            fits = False
        else:
            fits = shape[0] == batch and shape[1] >= channels and list(shape[2:]) == image
        if not fits:
            raise ModelError(
                f"the noise prediction is not of the sample's shape {sample}",
                where=self.source,
                available=(describe(prediction),),
                mend="name the right output (--noise-pred) and input (--sample), and check --dim",
            )

    def _input(self, value: ir.Value) -> dict[str, Any]:
        name = str(value.name)
        roles = {self.roles.sample: "sample", self.roles.timestep: "timestep"}
        assert value.dtype is not None
        return {
            "name": name,
            "role": roles.get(name, "condition"),
            "dtype": value.dtype.numpy().name,
            "shape": list(self.shapes[name]),
        }

    def _fixed(self, name: str, fixed: int, asked: int | None) -> InputError:
        if name == "batch" and self.guidance_order:
            whole = f"--batch {fixed // 2}, or " if fixed % 2 == 0 else ""
            mend = f"the file computes {fixed} samples, two an image under guidance: {whole}"
            mend += f"--batch {fixed} --split-guidance, which runs it twice"
        elif name == "batch":
            mend = f"build for {fixed} images (--batch {fixed}), or with --guidance-order if two samples are "
            mend += "one image"
        else:
            mend = f"leave --{name} out"
        mend += "; or export the denoiser with this dimension free"
        return InputError(
            f"the {name} of {self.roles.sample!r} is {fixed} in the file, not {asked}",
            where=self.source,
            mend=mend,
        )


def open_onnx(
    source: str, reading: Reading | None = None, scheduler_config: str | Path | None = None
) -> OnnxModel:
    """Open an ONNX file as ``reading`` says, guessing what it doesn't.

    ``scheduler_config`` is a diffusers scheduler_config.json; without, one in the directory ``scheduler``
    beside the file, or beside its directory, is taken, if there is one. Raises ModelError, InputError,
    GraphError.
    """
    reading = reading or Reading()
    given = read(source)
    roles = find_roles(given.graph, reading)
    unread = keep_output(given, roles.noise_pred)
    for role, name in (("sample", roles.sample), ("timestep", roles.timestep)):
        if name in unread:
            raise ModelError(f"nothing reads {name!r}, so it can't be the {role}", where=source)
    _check_dtypes(given.graph, roles, source)
    sha256 = structure_sha256(given)
    cuts = cut(given.graph, reading.cuts, roles.sample) if reading.cuts else ()
    reading = Reading(roles.sample, roles.timestep, roles.timestep_kind, roles.noise_pred).over(reading)
    meaning = meanings(given.graph, roles)
    reading = replace(reading, dims={meaning.get(name, name): size for name, size in reading.dims.items()})
    shapes = input_shapes(given.graph, meaning, reading.dims, source)
    renamed = _free_names(given.graph)
    notes = [*roles.guesses]
    notes += [f"the input {name!r} is left out: {roles.noise_pred!r} doesn't depend on it" for name in unread]
    notes += [f"{old!r} is called {new!r} from here on: its name is taken" for old, new in renamed.items()]
    scheduler, config = _scheduler(source, scheduler_config)

    def called(name: str) -> str:
        return renamed.get(name, name)

    return OnnxModel(
        source=source,
        reading=reading,
        roles=replace(
            roles,
            sample=called(roles.sample),
            timestep=called(roles.timestep),
            noise_pred=called(roles.noise_pred),
        ),
        given=given,
        shapes={called(name): shape for name, shape in shapes.items()},
        names={called(name): name for name in (*shapes, roles.noise_pred)},
        config_sha256=sha256,
        cuts=cuts,
        notes=tuple(notes),
        scheduler_class=scheduler,
        scheduler_config=config,
    )


def _check_dtypes(graph: ir.Graph, roles: Roles, source: str) -> None:
    for value in (*graph.inputs, *graph.outputs):
        if value.name in (roles.sample, roles.noise_pred) and value.dtype != ir.DataType.FLOAT:
            raise ModelError(
                f"{describe(value)} is not float32, which the denoising loop computes in",
                where=source,
                mend="export the denoiser with a float32 sample and output",
            )


def _free_names(graph: ir.Graph) -> dict[str, str]:
    """Rename, in place, tensors whose names are taken; the new names by the old."""
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    names = {value.name for value in values}
    renamed = {}
    for value in values:
        old = str(value.name)
        if old in TAKEN:
            new = f"{old}_"
            while new in names:
                new += "_"
            value.name = renamed[old] = new
    return renamed


def _scheduler(source: str, told: str | Path | None) -> tuple[str, dict[str, Any]]:
    """Class and configuration; an empty class where there is none."""
    folder = Path(source).absolute().parent
    beside = (place / SCHEDULER for place in (folder, folder.parent))
    path = told or next((place for place in beside if place.is_file()), None)
    if path is None:
        return "", {}
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
        class_name = config["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"this is not a diffusers scheduler's configuration: {error}",
            where=path,
            mend="pass a scheduler_config.json; it names its class as _class_name",
        ) from error
    return class_name, config
