"""Loading a denoiser, its scheduler's configuration or its whole pipeline from a MODEL specifier.

A specifier is a local diffusers pipeline or model directory, a hub id, or ``random:NAME`` (``presets.py``).
The same code serves local directories and hub ids: diffusers tells them apart.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dipgo_compile.errors import InputError, ModelError
from dipgo_compile.mask import ModelRef, Reuse
from dipgo_compile.models import Family, Geometry, InputSpec, family_of
from dipgo_compile.models.base import GRANULARITIES
from dipgo_compile.models.presets import PRESETS, SD_BETAS
from dipgo_compile.models.reading import is_onnx, not_pytorch

if TYPE_CHECKING:
    import onnx_ir as ir

    from dipgo_compile.macs.counts import Macs, Operations

DENOISERS = ("unet", "transformer")  # what diffusers pipelines call the denoiser
TOKENIZERS = ("tokenizer", "tokenizer_2")  # Stable Diffusion XL's refiner has the second alone


@dataclass(frozen=True)
class Model:
    """A frozen denoiser with what surrounds it. ``denoiser`` is in eval mode, float32, without gradients."""

    source: str
    family: Family
    denoiser: nn.Module
    config: Mapping[str, Any]
    scheduler_class: str
    scheduler_config: Mapping[str, Any]
    tokens: int
    vae_scale_factor: int
    _operations: dict[Geometry, Operations] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def class_name(self) -> str:
        return self.family.class_name

    @property
    def config_sha256(self) -> str:
        return config_sha256(self.config)

    def geometry(self, batch: int = 1, height: int | None = None, width: int | None = None) -> Geometry:
        """Static sizes from an image size in pixels (default: the model's own). ``batch`` counts denoiser
        samples: two an image under guidance.
        """
        sizes = []
        own = self.config["sample_size"]
        own = own if isinstance(own, list | tuple) else (own, own)
        for name, pixels, latents in zip(("height", "width"), (height, width), own, strict=True):
            if pixels is None:
                if latents is None:
                    raise InputError(f"{self.source} has no {name} of its own", mend=f"give a {name}")
                sizes.append(int(latents))
            elif pixels <= 0 or pixels % self.vae_scale_factor:
                raise InputError(
                    f"{name} {pixels} is not a positive multiple of {self.vae_scale_factor} pixels",
                    where=self.source,
                )
            else:
                sizes.append(pixels // self.vae_scale_factor)
        return Geometry(batch, sizes[0], sizes[1], self.tokens)

    @property
    def guidance_order(self) -> tuple[str, str]:
        return self.family.guidance_order

    @property
    def timestep_kind(self) -> str:
        return "timestep"

    def ref(self) -> ModelRef:
        return ModelRef(self.source, self.class_name, self.config_sha256)

    @cached_property
    def scopes(self) -> tuple[str, ...]:
        """See ``executed_scopes``."""
        return executed_scopes(self)

    def inputs(self, geometry: Geometry) -> tuple[InputSpec, ...]:
        return self.family.inputs(self.config, geometry)

    def predict(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The denoiser's raw answer to its inputs by name, (batch, out channels, height, width)."""
        answer: torch.Tensor = self.denoiser(**self.family.arguments(inputs), return_dict=False)[0]
        return answer

    def blocks(self, granularity: str = "block") -> tuple[str, ...]:
        """The scopes that serve as blocks at a granularity (``block`` or ``layer``), in execution order."""
        if granularity not in GRANULARITIES:
            raise ModelError(f"unknown granularity {granularity!r}", available=GRANULARITIES)
        return self.family.blocks(self.config, self.scopes, granularity)

    def graph(self, geometry: Geometry) -> ir.Model:
        """See ``export``."""
        from dipgo_compile.graphs.export import export

        return export(self, geometry)

    def macs(self, geometry: Geometry, scopes: Iterable[str], reuse: Reuse = "output") -> Macs:
        """See ``count_macs``."""
        from dipgo_compile.macs.counts import count_macs

        return count_macs(self, geometry, scopes, reuse)

    def macs_by_scope(self, geometry: Geometry, scopes: Iterable[str]) -> dict[str, int]:
        """See ``macs_by_scope``."""
        from dipgo_compile.macs.counts import macs_by_scope

        return macs_by_scope(self, geometry, scopes)

    def operations(self, geometry: Geometry) -> Operations:
        """See ``count_operations``. Counted once for each image size: a call takes a second to trace."""
        from dipgo_compile.macs.counts import count_operations

        key = replace(geometry, batch=1)
        if key not in self._operations:
            self._operations[key] = count_operations(self, key)
        return self._operations[key]

    def check_residuals(self, blocks: Sequence[str]) -> None:
        """See ``reuse.check_residuals``."""
        from dipgo_compile.masks.reuse import check_residuals

        check_residuals(self, blocks)

    def on_meta(self) -> nn.Module:
        """The denoiser without weights: a call computes nothing, but shows what runs on which shapes."""
        if next(self.denoiser.parameters()).is_meta:
            return self.denoiser
        cls: Any = type(self.denoiser)  # a diffusers model
        with torch.device("meta"):
            made: nn.Module = cls.from_config(dict(self.config)).eval()
        return made


def load(source: str, *, weights: bool = True) -> Model:
    """Load a denoiser. With ``weights=False`` it lives on the meta device: shapes only, no memory."""
    if source.startswith("random:"):
        return _from_preset(source, weights)
    if is_onnx(source):
        raise not_pytorch(source)
    return _from_pretrained(source, weights)


def load_pipeline(source: str, **components: Any) -> Any:
    """The whole diffusers pipeline in float32, quietly. ``components``, by their names in it, are those that
    needn't be loaded again. Raises ModelError.
    """
    if source.startswith("random:") or is_onnx(source):
        raise ModelError(
            f"{source} has no text encoder and no image decoder",
            mend="name a pipeline directory or a hub id for commands that make images",
        )
    _quiet()
    from diffusers import DiffusionPipeline

    try:
        pipeline: Any = DiffusionPipeline.from_pretrained(source, dtype=torch.float32, **components)  # type: ignore[no-untyped-call]
    except Exception as error:  # diffusers raises many kinds: OSError, ValueError, hub errors
        raise _unloadable(source, error) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_scheduler(class_name: str, config: Mapping[str, Any]) -> Any:
    """A diffusers scheduler by class name. Raises ModelError for an unknown class."""
    return _diffusers_class(class_name).from_config(dict(config))


def example_inputs(
    specs: tuple[InputSpec, ...], seed: int = 0, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """Seeded inputs by name: unit normal floats, class ids below their limit, timestep 500."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, torch.Tensor] = {}
    for spec in specs:
        dtype = getattr(torch, spec.spec.dtype)
        if spec.role == "timestep":
            value = torch.full(spec.spec.shape, 500, dtype=dtype)
        elif dtype.is_floating_point:
            value = torch.randn(spec.spec.shape, generator=generator, dtype=dtype)
        else:
            value = torch.randint(spec.limit or 2, spec.spec.shape, generator=generator, dtype=dtype)
        made[spec.name] = value.to(device)
    return made


def executed_scopes(model: Model) -> tuple[str, ...]:
    """Every module scope in the order in which a call first enters it (``named_modules`` lists them as
    constructed).
    """
    order: dict[str, None] = {}
    denoiser = model.on_meta()
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: order.setdefault(name))
        for name, module in denoiser.named_modules()
    ]
    try:
        with torch.no_grad():
            inputs = example_inputs(model.inputs(model.geometry(1)), device="meta")
            denoiser(**model.family.arguments(inputs))
    finally:
        for handle in handles:
            handle.remove()
    return tuple(order)


def config_sha256(config: Mapping[str, Any]) -> str:
    """Identity of an architecture: its config without private and version keys."""
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    return hashlib.sha256(json.dumps(public, sort_keys=True, default=str).encode()).hexdigest()


def _from_preset(source: str, weights: bool) -> Model:
    name = source.removeprefix("random:")
    if name not in PRESETS:
        raise ModelError(f"no preset called {name!r}", available=(f"random:{known}" for known in PRESETS))
    preset = PRESETS[name]
    torch.manual_seed(0)
    with torch.device("cpu" if weights else "meta"):
        denoiser = _diffusers_class(preset.class_name).from_config(preset.config)
    scheduler = make_scheduler(preset.scheduler_class, preset.scheduler_config)
    return _model(
        source, denoiser, preset.scheduler_class, scheduler.config, preset.tokens, preset.vae_scale_factor
    )


def _from_pretrained(source: str, weights: bool) -> Model:
    _quiet()
    from diffusers import DiffusionPipeline

    try:
        index: dict[str, Any] = DiffusionPipeline.load_config(source)
    except Exception:  # no model_index.json: a directory that holds the denoiser alone
        return _from_model_directory(source, weights)
    name = next((name for name in DENOISERS if index.get(name, (None,))[0]), None)
    if name is None:
        raise ModelError(
            f"{source} has no denoiser",
            where="model_index.json",
            available=(part for part in index if not part.startswith("_")),
            mend=f"name a pipeline that has a {' or a '.join(DENOISERS)}",
        )
    cls = _diffusers_class(index[name][1])
    try:
        denoiser = _denoiser(cls, source, name, weights)
        scheduler_class = index["scheduler"][1]
        scheduler_config = _diffusers_class(scheduler_class).load_config(source, subfolder="scheduler")
    except OSError as error:
        raise _unloadable(source, error) from error
    tokens = _tokens(source, index) or family_of(type(denoiser).__name__).tokens
    return _model(
        source, denoiser, scheduler_class, scheduler_config, tokens, _vae_scale_factor(source, index)
    )


def _from_model_directory(source: str, weights: bool) -> Model:
    path = Path(source) / "config.json"
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise _unloadable(source, error) from error
    denoiser = _denoiser(_diffusers_class(config.get("_class_name", "unknown")), source, None, weights)
    tokens = family_of(type(denoiser).__name__).tokens
    scheduler = make_scheduler("DDIMScheduler", {**SD_BETAS, "clip_sample": False})
    return _model(source, denoiser, "DDIMScheduler", scheduler.config, tokens, 8)


def _denoiser(cls: Any, source: str, subfolder: str | None, weights: bool) -> nn.Module:
    where = {} if subfolder is None else {"subfolder": subfolder}
    if weights:
        denoiser: nn.Module = cls.from_pretrained(source, dtype=torch.float32, **where)
        return denoiser
    with torch.device("meta"):
        empty: nn.Module = cls.from_config(cls.load_config(source, **where))
    return empty


def _quiet() -> None:
    """No progress bars for files read from disk, and no advice about packages that are not needed."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _model(
    source: str,
    denoiser: Any,
    scheduler_class: str,
    scheduler_config: Mapping[str, Any],
    tokens: int,
    scale: int,
) -> Model:
    return Model(
        source=source,
        family=family_of(type(denoiser).__name__),
        denoiser=denoiser.eval().requires_grad_(False),
        config=dict(denoiser.config),
        scheduler_class=scheduler_class,
        scheduler_config=dict(scheduler_config),
        tokens=tokens,
        vae_scale_factor=scale,
    )


def _diffusers_class(name: str) -> Any:
    try:
        return getattr(importlib.import_module("diffusers"), name)
    except AttributeError:
        raise ModelError(
            f"diffusers has no class {name!r}", mend="check the class name, or update diffusers"
        ) from None


def _tokens(source: str, index: Mapping[str, Any]) -> int | None:
    """The length of a prompt's embedding: what the pipeline cuts prompts to, or else its first tokenizer.
    None for class-conditional pipelines, and for denoisers alone.
    """
    from transformers import AutoTokenizer

    pipeline = getattr(importlib.import_module("diffusers"), str(index.get("_class_name")), None)
    call = {} if pipeline is None else inspect.signature(pipeline.__call__).parameters
    if "max_sequence_length" in call:
        return int(call["max_sequence_length"].default)
    first = next((name for name in TOKENIZERS if index.get(name, (None,))[0]), TOKENIZERS[0])
    try:
        return int(AutoTokenizer.from_pretrained(source, subfolder=first).model_max_length)
    except Exception:  # transformers raises many kinds for a directory that isn't there
        return None


def _vae_scale_factor(source: str, index: Mapping[str, Any]) -> int:
    if not index.get("vae", (None,))[0]:  # left out, or [null, null]
        return 1
    config = _diffusers_class(index["vae"][1]).load_config(source, subfolder="vae")
    return int(2 ** (len(config["block_out_channels"]) - 1))


def _unloadable(source: str, error: BaseException) -> ModelError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ModelError(
        f"cannot load the model {source!r}: {reason}",
        available=("a diffusers directory", "a hub id", *(f"random:{name}" for name in PRESETS)),
        mend="check the path; hub ids need a network connection or a filled cache",
    )
