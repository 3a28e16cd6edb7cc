"""What surrounds a denoiser in its pipeline, exported beside it: text encoder, image decoder and tokenizer.

The graphs do everything but sampling: the text encoder ends where the denoiser's condition begins, the image
decoder begins with the final latents and ends with bytes. Whether tokenizer and text encoder say what the
pipeline's own ``encode_prompt`` says is checked on a few prompts, because pipelines may do more than their
parts show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from tokenizers import Tokenizer
from torch import nn

from dipgo_compile.errors import ModelError
from dipgo_compile.formats.pipeline_json import INPUT_IDS, LATENTS, PIXELS
from dipgo_compile.graphs.engines import ONNX
from dipgo_compile.graphs.export import trace
from dipgo_compile.models.source import DENOISERS, Model, load_pipeline
from dipgo_compile.plan import Part, PipelineParts, Plan, TokenizerFile
from dipgo_compile.program import TensorSpec

TEXT_ENCODER, IMAGE_DECODER, TOKENIZER = "text_encoder.onnx", "image_decoder.onnx", "tokenizer.json"
PARTS: Mapping[tuple[str, ...], tuple[str, ...]] = {  # conditions: what the pipeline must have to make them
    ("encoder_hidden_states",): ("text_encoder", "tokenizer", "vae"),
    ("class_labels",): ("vae",),
}
PROMPTS = ("", "a photo of a dress", "Crème brûlée: 100% «ünïcode», 日本!", 40 * "far too long, ")
TOLERANCE = 1e-4  # of embeddings around 1, which the same module computes both times
WHOLE = "name a whole pipeline with --model, or build without --pipeline"
MEND = "build without --pipeline, and give generate the pipeline with --model"


@dataclass(frozen=True)
class Surroundings:
    """The exported parts: what the plan says of them, the new graphs by file, and the tokenizer's file."""

    parts: PipelineParts
    graphs: Mapping[str, ir.Model]
    tokenizer: str | None

    def write_tokenizer(self, directory: Path) -> None:
        """Write the file that isn't a graph. ``engines.write_engines`` writes those."""
        if self.tokenizer is not None:
            (directory / TOKENIZER).write_text(self.tokenizer, encoding="utf-8")


def model_index(source: str) -> Mapping[str, Any]:
    """What a pipeline consists of, by name. Raises ModelError where there is none, as for a denoiser
    alone.
    """
    from diffusers import DiffusionPipeline

    if source.startswith("random:"):
        raise ModelError(f"{source} is no pipeline, but random weights for a denoiser", mend=WHOLE)
    try:
        index: Mapping[str, Any] = DiffusionPipeline.load_config(source)
    except Exception as error:  # diffusers raises many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{source} is no pipeline, with a text encoder and an image decoder: {reason}", mend=WHOLE
        ) from error
    return index


def load_surroundings(model: Model, index: Mapping[str, Any]) -> Any:
    """The diffusers pipeline around a denoiser that is loaded already; ``index`` is its ``model_index``.
    Raises ModelError for one that lacks a part, or whose parts a bundle can't stand for, before anything is
    exported.
    """
    conditions = tuple(spec.name for spec in model.inputs(model.geometry(1)) if spec.role == "condition")
    if conditions not in PARTS:
        raise ModelError(
            f"the parts that make the conditions {', '.join(conditions)} cannot be exported yet",
            where=model.source,
            available=(", ".join(names) for names in PARTS),
            mend=MEND,
        )
    there = [
        name for name, entry in index.items() if isinstance(entry, list | tuple) and entry[0] is not None
    ]
    missing = [name for name in PARTS[conditions] if name not in there]
    if missing:
        raise ModelError(
            f"the pipeline has no {' and no '.join(missing)}",
            where=f"{model.source}/model_index.json",
            available=there,
            mend=WHOLE,
        )
    components = {name: model.denoiser for name in DENOISERS if name in index}
    pipeline = load_pipeline(model.source, **components)
    check_surroundings(pipeline, model.tokens)
    return pipeline


def check_surroundings(pipeline: Any, length: int) -> None:
    """Raises ModelError where the pipeline does more than its parts show. ``length``: token ids of a prompt,
    where it has a text encoder.
    """
    where = str(pipeline.name_or_path)
    shifts = [key for key in ("shift_factor", "latents_mean") if pipeline.vae.config.get(key) is not None]
    if shifts:
        raise ModelError(f"the image decoder shifts its latents: {shifts[0]}", where=where, mend=MEND)
    if getattr(pipeline, "text_encoder", None) is not None:
        tokenizer = tokenizer_of(pipeline, length)
        for prompt in PROMPTS:
            _check_prompt(pipeline, tokenizer, prompt, length)


def export_surroundings(
    pipeline: Any, plan: Plan, guidance_scale: float, ending: str = "", encoders: Sequence[Part] = ()
) -> Surroundings:
    """Export the parts for the sizes of a plan. Weights stay references to the pipeline's own memory.

    Where a bundle serves several shapes, ``ending`` is put to the names of the graphs' files, and
    ``encoders`` are the text encoders that it has already: one that fits is taken. Raises ModelError for a
    part that can't be exported.
    """
    where = str(pipeline.name_or_path)
    latents = plan.program.specs[plan.program.output]
    decoder, image_decoder = _export_decoder(pipeline.vae, latents, where)
    image_decoder = _ending(image_decoder, ending)
    parts = PipelineParts(
        text_encoder=None,
        image_decoder=image_decoder,
        tokenizer=None,
        guidance_scale=guidance_scale,
        classes=dict(getattr(pipeline, "labels", None) or {}),
    )
    if getattr(pipeline, "text_encoder", None) is None:
        return Surroundings(parts, {image_decoder.file: decoder}, None)
    (name,) = plan.interface.conditions
    spec = plan.condition(name)
    length = spec.shape[1]
    graphs = {image_decoder.file: decoder}
    text_encoder = next((part for part in encoders if part.outputs == {name: spec}), None)
    if text_encoder is None:
        encoder, text_encoder = _export_encoder(pipeline.text_encoder, name, spec, where)
        text_encoder = _ending(text_encoder, ending)
        graphs[text_encoder.file] = encoder
    parts = replace(parts, text_encoder=text_encoder, tokenizer=TokenizerFile(TOKENIZER, length))
    return Surroundings(parts, graphs, tokenizer_of(pipeline, length).to_str())


def _ending(part: Part, ending: str) -> Part:
    return replace(part, file=f"{part.file.removesuffix(ONNX)}{ending}{ONNX}")


class TextEncoder(nn.Module):
    """Token ids to the hidden states that the denoiser attends to."""

    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden_states: torch.Tensor = self.text_encoder(input_ids)[0]
        return hidden_states


class ImageDecoder(nn.Module):
    """Final latents to bytes, as diffusers' image processor rounds them."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        image = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        levels: torch.Tensor = (image * 0.5 + 0.5).clamp(0, 1) * 255
        return levels.round().permute(0, 2, 3, 1).to(torch.uint8)


def _check_prompt(pipeline: Any, tokenizer: Tokenizer, prompt: str, length: int) -> None:
    """Ids and embeddings must be what the pipeline makes of the prompt."""
    where, about = str(pipeline.name_or_path), f"does more with {prompt[:40]!r} than its"
    plain = pipeline.tokenizer
    ids = plain(prompt, padding="max_length", max_length=length, truncation=True).input_ids
    if tokenizer.encode(prompt).ids != ids:
        raise ModelError(f"the {type(plain).__name__} {about} file says", where=where, mend=MEND)
    with torch.no_grad():
        said = TextEncoder(pipeline.text_encoder)(torch.tensor([ids]))
        wanted = pipeline.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
    if said.shape != wanted.shape or not torch.allclose(said, wanted, rtol=0, atol=TOLERANCE):
        raise ModelError(f"the {type(pipeline).__name__} {about} text encoder says", where=where, mend=MEND)


def _export_encoder(
    text_encoder: nn.Module, name: str, spec: TensorSpec, where: str
) -> tuple[ir.Model, Part]:
    ids = TensorSpec("int64", spec.shape[:2])
    given = {INPUT_IDS: torch.zeros(ids.shape, dtype=torch.int64)}
    module = TextEncoder(text_encoder).eval()
    graph = trace("the text encoder", module, given, [INPUT_IDS], name, where=where)
    return graph, Part(TEXT_ENCODER, {INPUT_IDS: ids}, {name: spec})


def _export_decoder(vae: nn.Module, spec: TensorSpec, where: str) -> tuple[ir.Model, Part]:
    module, given = ImageDecoder(vae).eval(), {LATENTS: torch.zeros(spec.shape)}
    graph = trace("the image decoder", module, given, [LATENTS], PIXELS, where=where)
    shape = graph.graph.outputs[0].shape
    assert shape is not None and shape.is_static()  # as all its inputs are
    return graph, Part(IMAGE_DECODER, {LATENTS: spec}, {PIXELS: TensorSpec("uint8", tuple(shape.numpy()))})


def tokenizer_of(pipeline: Any, length: int) -> Tokenizer:
    """The pipeline's tokenizer with its cutting and padding to ``length`` ids written down in it. Raises
    ModelError for one that the package ``tokenizers`` doesn't know.
    """
    plain = pipeline.tokenizer
    backend = getattr(plain, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelError(
            f"the {type(plain).__name__} has no form that the package tokenizers reads",
            where=pipeline.name_or_path,
            mend=MEND,
        )
    made: Tokenizer = Tokenizer.from_str(backend.to_str())
    made.enable_truncation(length)
    made.enable_padding(
        direction=plain.padding_side, length=length, pad_id=plain.pad_token_id, pad_token=plain.pad_token
    )
    return made
