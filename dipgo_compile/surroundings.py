"""What surrounds a denoiser in its pipeline, exported beside it: text encoder, image decoder and tokenizer.

The graphs do everything but sampling: the text encoder ends where the denoiser's condition begins, the image
decoder begins with the final latents and ends with bytes. Whether the exported encoder says what the
pipeline's own ``encode_prompt`` says is checked on a few prompts, because pipelines may do more than
the three parts show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from dipgo_compile.errors import ModelError
from dipgo_compile.export import trace
from dipgo_compile.models.source import DENOISERS, Model, load_pipeline
from dipgo_compile.pipeline_json import INPUT_IDS, LATENTS, PIXELS
from dipgo_compile.plan import Part, PipelineParts, Plan, TokenizerFile
from dipgo_compile.program import TensorSpec

TEXT_ENCODER, IMAGE_DECODER, TOKENIZER = "text_encoder.onnx", "image_decoder.onnx", "tokenizer.json"
PARTS: Mapping[tuple[str, ...], tuple[str, ...]] = {  # conditions: what the pipeline must have to make them
    ("encoder_hidden_states",): ("text_encoder", "tokenizer", "vae"),
    ("class_labels",): ("vae",),
}
PROMPTS = ("", "a photo of a dress", "Crème brûlée: 100% «ünïcode», 日本!", 40 * "far too long, ")
TOLERANCE = 1e-4  # of embeddings around 1; the same module computes both, in batches of another size
MEND = "build without --pipeline, and give generate the pipeline with --model"


@dataclass(frozen=True)
class Surroundings:
    """The exported parts: what the plan says of them, their graphs by file, and the tokenizer's file."""

    parts: PipelineParts
    graphs: Mapping[str, ir.Model]
    tokenizer: str | None

    def write_tokenizer(self, directory: Path) -> None:
        """Write the file that isn't a graph. ``engines.write_engines`` writes those."""
        if self.tokenizer is not None:
            (directory / TOKENIZER).write_text(self.tokenizer, encoding="utf-8")


def load_surroundings(model: Model) -> Any:
    """The diffusers pipeline around a denoiser that is loaded already. Raises ModelError for one without the
    parts, before anything is exported.
    """
    conditions = tuple(spec.name for spec in model.inputs(model.geometry(1)) if spec.role == "condition")
    if conditions not in PARTS:
        raise ModelError(
            f"the parts that make the conditions {', '.join(conditions)} cannot be exported yet",
            where=model.source,
            available=(", ".join(names) for names in PARTS),
            mend=MEND,
        )
    index = _model_index(model.source)
    there = [
        name for name, entry in index.items() if isinstance(entry, list | tuple) and entry[0] is not None
    ]
    missing = [name for name in PARTS[conditions] if name not in there]
    if missing:
        raise ModelError(
            f"the pipeline has no {' and no '.join(missing)}",
            where=f"{model.source}/model_index.json",
            available=there,
            mend="name a whole pipeline with --model, or build without --pipeline",
        )
    return load_pipeline(model.source, **{name: model.denoiser for name in DENOISERS if name in index})


def export_surroundings(pipeline: Any, plan: Plan, guidance_scale: float) -> Surroundings:
    """Export the parts for the sizes of a plan. Weights stay references to the pipeline's own memory. Raises
    ModelError for parts that a bundle can't stand for.
    """
    where, specs = str(pipeline.name_or_path), plan.program.specs
    decoder, image_decoder = _export_decoder(pipeline.vae, specs[plan.program.output], where)
    graphs, text_encoder, tokenizer = {IMAGE_DECODER: decoder}, None, None
    if plan.interface.conditions == ("encoder_hidden_states",):
        (name,) = plan.interface.conditions
        tokenizer = _tokenizer_file(pipeline.tokenizer, specs[name].shape[1], where)
        graphs[TEXT_ENCODER], text_encoder = _export_encoder(pipeline, name, specs[name], where)
    parts = PipelineParts(
        text_encoder=text_encoder,
        image_decoder=image_decoder,
        tokenizer=None
        if text_encoder is None
        else TokenizerFile(TOKENIZER, text_encoder.inputs[INPUT_IDS].shape[1]),
        guidance_scale=guidance_scale,
        classes=dict(getattr(pipeline, "labels", None) or {}),
    )
    return Surroundings(parts, graphs, tokenizer)


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


def _model_index(source: str) -> Mapping[str, Any]:
    from diffusers import DiffusionPipeline

    try:
        index: Mapping[str, Any] = DiffusionPipeline.load_config(source)
    except Exception:  # diffusers raises many kinds; the denoiser itself could be loaded
        raise ModelError(
            f"{source} is a denoiser alone: it has no text encoder and no image decoder",
            mend="name a whole pipeline with --model, or build without --pipeline",
        ) from None
    return index


def _export_encoder(pipeline: Any, name: str, spec: TensorSpec, where: str) -> tuple[ir.Model, Part]:
    module = TextEncoder(pipeline.text_encoder).eval()
    _check_encoder(pipeline, module, spec, where)
    ids = torch.zeros(spec.shape[:2], dtype=torch.int64)
    graph = trace("the text encoder", module, {INPUT_IDS: ids}, [INPUT_IDS], name, where=where)
    return graph, Part(TEXT_ENCODER, {INPUT_IDS: TensorSpec("int64", spec.shape[:2])}, {name: spec})


def _check_encoder(pipeline: Any, module: TextEncoder, spec: TensorSpec, where: str) -> None:
    """The module must say what the pipeline says, of every prompt."""
    for prompt in PROMPTS:
        with torch.no_grad():
            ids = torch.tensor(_ids(pipeline.tokenizer, prompt, spec.shape[1]))[None]
            said = module(ids)
            wanted = pipeline.encode_prompt(
                prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )[0]
        if said.shape[1:] != spec.shape[1:] or not torch.allclose(said, wanted, rtol=0, atol=TOLERANCE):
            raise ModelError(
                f"the {type(pipeline).__name__} does more with {prompt[:40]!r} than its text encoder shows",
                where=where,
                mend=MEND,
            )


def _export_decoder(vae: Any, spec: TensorSpec, where: str) -> tuple[ir.Model, Part]:
    shifts = [key for key in ("shift_factor", "latents_mean") if vae.config.get(key) is not None]
    if shifts:
        raise ModelError(f"the image decoder shifts its latents: {shifts[0]}", where=where, mend=MEND)
    latents = torch.zeros(spec.shape)
    module = ImageDecoder(vae).eval()
    graph = trace("the image decoder", module, {LATENTS: latents}, [LATENTS], PIXELS, where=where)
    shape = graph.graph.outputs[0].shape
    assert shape is not None and shape.is_static()  # as all its inputs are
    return graph, Part(IMAGE_DECODER, {LATENTS: spec}, {PIXELS: TensorSpec("uint8", tuple(shape.numpy()))})


def _tokenizer_file(tokenizer: Any, length: int, where: str) -> str:
    """The tokenizer with its padding and cutting written down in it, as text. Raises ModelError for one that
    the package ``tokenizers`` doesn't know.
    """
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelError(
            f"the {type(tokenizer).__name__} has no form that the package tokenizers reads",
            where=where,
            mend=MEND,
        )
    made = Tokenizer.from_str(backend.to_str())
    made.enable_truncation(length)
    made.enable_padding(
        direction=tokenizer.padding_side,
        length=length,
        pad_id=tokenizer.pad_token_id,
        pad_token=tokenizer.pad_token,
    )
    for prompt in PROMPTS:
        if made.encode(prompt).ids != _ids(tokenizer, prompt, length):
            raise ModelError(
                f"the {type(tokenizer).__name__} does more with {prompt[:40]!r} than its file says",
                where=where,
                mend=MEND,
            )
    return str(made.to_str())


def _ids(tokenizer: Any, prompt: str, length: int) -> list[int]:
    """As pipelines call their tokenizers."""
    ids: list[int] = tokenizer(prompt, padding="max_length", max_length=length, truncation=True).input_ids
    return ids
