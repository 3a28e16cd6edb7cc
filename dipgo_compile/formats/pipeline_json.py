"""The pipeline part of plan.json, since version 1.2: text encoder, image decoder and tokenizer of a bundle.

Its tensors must fit the program exactly, so that an array that one part answers with can be handed to the
next without looking: the text encoder gives the program's conditions, the image decoder reads its output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dipgo_compile.formats.fields import Field
from dipgo_compile.plan import FileRecord, Interface, Part, PipelineParts, TokenizerFile
from dipgo_compile.program import Program, TensorSpec

INPUT_IDS, LATENTS, PIXELS = "input_ids", "latents", "pixels"
RGB = 3
MAX_UPSCALING = 64
"""Pixels along an axis for each of the latents'. Autoencoders have 8 to 32; more would only be a way to ask
for memory."""
Json = dict[str, Any]


def dump_pipeline(parts: PipelineParts) -> Json:
    """The value of the field ``pipeline``."""
    encoder, tokenizer = parts.text_encoder, parts.tokenizer
    shown: Json = {
        "text_encoder": None if encoder is None else _dump_part(encoder),
        "image_decoder": _dump_part(parts.image_decoder),
        "tokenizer": None if tokenizer is None else {"file": tokenizer.file, "length": tokenizer.length},
        "guidance_scale": parts.guidance_scale,
    }
    if parts.classes:
        shown["classes"] = dict(parts.classes)
    return shown


def read_pipeline(
    item: Field, program: Program, interface: Interface, files: Mapping[str, FileRecord]
) -> PipelineParts:
    """Read and check the field ``pipeline``. Raises BundleError."""
    encoder, tokenizer = item.get("text_encoder"), item.get("tokenizer")
    if (encoder.value is None) != (tokenizer.value is None):
        raise item.error("a text encoder and a tokenizer need each other: there is only one of them")
    ids = None if encoder.value is None else _read_encoder(encoder, program, interface, files)
    return PipelineParts(
        text_encoder=ids,
        image_decoder=_read_decoder(item.get("image_decoder"), program.specs[program.output], files),
        tokenizer=None if ids is None else _read_tokenizer(tokenizer, ids, files),
        guidance_scale=item.get("guidance_scale").number(),
        classes={name: value.integer() for name, value in item.get("classes").members().items()}
        if item.has("classes")
        else {},
    )


def _dump_part(part: Part) -> Json:
    return {"file": part.file, "inputs": _dump_tensors(part.inputs), "outputs": _dump_tensors(part.outputs)}


def _dump_tensors(tensors: Mapping[str, TensorSpec]) -> list[Json]:
    return [{"name": name, "dtype": spec.dtype, "shape": list(spec.shape)} for name, spec in tensors.items()]


def _read_part(item: Field, files: Mapping[str, FileRecord]) -> Part:
    return Part(
        item.get("file").name(files, "file"),
        _read_tensors(item.get("inputs")),
        _read_tensors(item.get("outputs")),
    )


def _read_tensors(item: Field) -> dict[str, TensorSpec]:
    tensors: dict[str, TensorSpec] = {}
    for tensor in item.items():
        name = tensor.get("name").text()
        if name in tensors:
            raise tensor.error(f"the tensor {name!r} is listed twice")
        tensors[name] = tensor.tensor_spec()
    return tensors


def _read_encoder(
    item: Field, program: Program, interface: Interface, files: Mapping[str, FileRecord]
) -> Part:
    part = _read_part(item, files)
    conditions = {name: interface.given(name, program.specs) for name in interface.conditions}
    if part.outputs != conditions:
        raise item.get("outputs").error(
            f"the text encoder does not give the conditions of the program: {', '.join(conditions)}"
        )
    samples = {spec.shape[:1] for spec in conditions.values()}
    ids = part.inputs.get(INPUT_IDS)
    if len(part.inputs) != 1 or ids is None or ids.dtype != "int64" or len(ids.shape) != 2:
        raise item.get("inputs").error(f"a text encoder reads {INPUT_IDS}, int64 of two dimensions, alone")
    if samples != {ids.shape[:1]}:
        raise item.get("inputs").error(f"{ids.shape[0]} rows of ids are not one for each sample")
    return part


def _read_decoder(item: Field, latents: TensorSpec, files: Mapping[str, FileRecord]) -> Part:
    part = _read_part(item, files)
    if part.inputs != {LATENTS: latents}:
        raise item.get("inputs").error(
            f"an image decoder reads {LATENTS}, {latents.dtype} {list(latents.shape)}, alone"
        )
    pixels = part.outputs.get(PIXELS)
    if len(part.outputs) != 1 or pixels is None or pixels.dtype != "uint8" or len(pixels.shape) != 4:
        raise item.get("outputs").error(f"an image decoder gives {PIXELS}, uint8 of four dimensions, alone")
    if len(latents.shape) != 4 or not _is_upscaled(latents.shape, pixels.shape):
        raise item.get("outputs").error(
            f"{PIXELS} of shape {list(pixels.shape)} are not images of latents {list(latents.shape)}"
        )
    return part


def _is_upscaled(latents: tuple[int, ...], pixels: tuple[int, ...]) -> bool:
    """Whether (images, height, width, RGB) is (images, channels, h, w), each axis some whole number of times
    as long.
    """
    images, _, *small = latents
    if (pixels[0], pixels[3]) != (images, RGB) or 0 in small:
        return False
    return all(
        large % length == 0 and 1 <= large // length <= MAX_UPSCALING
        for large, length in zip(pixels[1:3], small, strict=True)
    )


def _read_tokenizer(item: Field, encoder: Part, files: Mapping[str, FileRecord]) -> TokenizerFile:
    length = item.get("length").integer(low=1)
    if length != encoder.inputs[INPUT_IDS].shape[1]:
        raise item.get("length").error(f"the text encoder does not read {length} ids a prompt")
    return TokenizerFile(item.get("file").name(files, "file"), length)
