"""A text encoder, an image decoder and a tokenizer around the toy's loop, as small as it is.

The encoder looks ids up in a table; the decoder repeats each latent twice along both axes and turns channels
0, 1 and 0 into grey levels; the tokenizer knows five words and pads to three.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import toy
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from dipgo_compile.plan import Part, PipelineParts, Plan, TokenizerFile
from dipgo_compile.program import TensorSpec

WORDS = ("<pad>", "<unk>", "a", "red", "dress")
LENGTH = toy.TEXT[1]
IDS = (toy.TEXT[0], LENGTH)
PIXELS = (1, 8, 8, 3)
TABLE = np.linspace(-1, 1, len(WORDS) * toy.TEXT[2], dtype=np.float32).reshape(len(WORDS), toy.TEXT[2])


def parts() -> PipelineParts:
    return PipelineParts(
        text_encoder=Part(
            "text_encoder.onnx",
            {"input_ids": TensorSpec("int64", IDS)},
            {"text": TensorSpec("float32", toy.TEXT)},
        ),
        image_decoder=Part(
            "image_decoder.onnx",
            {"latents": TensorSpec("float32", toy.LATENTS)},
            {"pixels": TensorSpec("uint8", PIXELS)},
        ),
        tokenizer=TokenizerFile("tokenizer.json", LENGTH),
        guidance_scale=3.0,
    )


def plan() -> Plan:
    return replace(toy.plan(), pipeline=parts())


def write_files(directory: Path) -> None:
    """The toy's engines, and the parts."""
    toy.write_engines(directory)
    _save(
        directory / "text_encoder.onnx",
        [helper.make_node("Gather", ["table", "input_ids"], ["text"])],
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, IDS)],
        [helper.make_tensor_value_info("text", TensorProto.FLOAT, toy.TEXT)],
        {"table": TABLE},
    )
    _save(
        directory / "image_decoder.onnx",
        [
            helper.make_node("Gather", ["latents", "channels"], ["rgb"], axis=1),
            helper.make_node("Transpose", ["rgb"], ["last"], perm=[0, 2, 3, 1]),
            helper.make_node("Resize", ["last", "", "scales"], ["large"], mode="nearest"),
            helper.make_node("Mul", ["large", "levels"], ["scaled"]),
            helper.make_node("Add", ["scaled", "grey"], ["shifted"]),
            helper.make_node("Clip", ["shifted", "black", "white"], ["clipped"]),
            helper.make_node("Round", ["clipped"], ["rounded"]),
            helper.make_node("Cast", ["rounded"], ["pixels"], to=TensorProto.UINT8),
        ],
        [helper.make_tensor_value_info("latents", TensorProto.FLOAT, toy.LATENTS)],
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, PIXELS)],
        {
            "channels": np.array([0, 1, 0], np.int64),
            "scales": np.array([1, 2, 2, 1], np.float32),
            "levels": np.float32(16),
            "grey": np.float32(128),
            "black": np.float32(0),
            "white": np.float32(255),
        },
    )
    tokenizer().save(str(directory / "tokenizer.json"))


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.enable_truncation(LENGTH)
    made.enable_padding(length=LENGTH, pad_id=0, pad_token=WORDS[0])
    return made


def pixels(latents: np.ndarray) -> np.ndarray:
    """What the decoder gives."""
    rgb = np.moveaxis(latents[:, [0, 1, 0]], 1, -1).repeat(2, axis=1).repeat(2, axis=2)
    return np.clip(rgb * 16 + 128, 0, 255).round().astype(np.uint8)


def _save(file: Path, nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray]) -> None:
    initializers = [numpy_helper.from_array(np.asarray(value), key) for key, value in weights.items()]
    graph = helper.make_graph(nodes, file.stem, inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
