"""UNet2DConditionModel: Stable Diffusion 1.x, 2.x, XL and its refiner, BK-SDM, latent consistency models.

Which conditions a UNet reads follows from its config. What no prompt gives (IP-Adapter's images) and what
stands beside the latents (inpainting) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dipgo_compile.errors import ModelError
from dipgo_compile.models.base import Config, Geometry, InputSpec, nested, scopes_matching
from dipgo_compile.program import TensorSpec

# In execution order: the paper's nine blocks (BK-SDM-Small has no mid block), and the layers inside them.
_BLOCKS = re.compile(r"down_blocks\.\d+|mid_block|up_blocks\.\d+")
_LAYERS = re.compile(
    r"(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(?:resnets|attentions|downsamplers|upsamplers)\.\d+"
)
_COMPILED: Mapping[str, tuple[str | None, ...]] = {
    "addition_embed_type": (None, "text", "text_time"),
    "encoder_hid_dim_type": (None, "text_proj"),
    "attention_type": ("default",),
}
BASE_TIME_IDS = 6  # SDXL: original size, crop's corner, target size
REFINER_TIME_IDS = 5  # its refiner: original size, crop's corner, aesthetic score
_MICRO_CONDITIONS = ("text_embeds", "time_ids")


class UNet2DCondition:
    class_name = "UNet2DConditionModel"
    guidance_order = ("uncond", "cond")
    tokens = 77

    def inputs(self, config: Config, geometry: Geometry) -> tuple[InputSpec, ...]:
        _check(config)
        g = geometry
        sample = TensorSpec("float32", (g.batch, config["in_channels"], g.height, g.width))
        text = TensorSpec("float32", (g.batch, g.tokens, _text_width(config)))
        return (
            InputSpec("sample", "sample", sample),
            InputSpec("timestep", "timestep", TensorSpec("float32", (1,))),
            InputSpec("encoder_hidden_states", "condition", text),
            *_embedded(config, g.batch),
        )

    def arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return nested(inputs, "added_cond_kwargs", _MICRO_CONDITIONS)

    def unconditional_classes(self, config: Config) -> int | None:
        return None

    def blocks(self, config: Config, scopes: Iterable[str], granularity: str) -> tuple[str, ...]:
        return scopes_matching(_BLOCKS if granularity == "block" else _LAYERS, scopes)


def _check(config: Config) -> None:
    for option, compiled in _COMPILED.items():
        if config.get(option, compiled[0]) not in compiled:
            raise ModelError(
                f"a UNet with {option} {config[option]!r} reads what no prompt gives",
                where=option,
                available=compiled,
                mend="use the UNet of a text-to-image pipeline",
            )
    if config["in_channels"] > config["out_channels"]:
        raise ModelError(
            f"the UNet reads {config['in_channels']} channels and predicts {config['out_channels']}: what "
            "stands beside the latents, as for inpainting, cannot be compiled",
            where="in_channels",
            mend="use the UNet of a text-to-image pipeline",
        )


def _text_width(config: Config) -> int:
    """Channels of the text embedding."""
    if config.get("encoder_hid_dim_type") == "text_proj":
        return int(config["encoder_hid_dim"])
    width = config["cross_attention_dim"]
    if isinstance(width, int):
        return width
    if len(set(width)) > 1:
        raise ModelError("blocks read text embeddings of different widths", where="cross_attention_dim")
    return int(width[0])


def _embedded(config: Config, batch: int) -> Iterator[InputSpec]:
    """What is added to the time embedding: classes, LCM's guidance scale, SDXL's pooled text and sizes."""

    def floats(*shape: int) -> TensorSpec:
        return TensorSpec("float32", (batch, *shape))

    kind, classes = config.get("class_embed_type"), config.get("num_class_embeds")
    if kind == "timestep":
        yield InputSpec("class_labels", "condition", floats())
    elif kind == "identity":
        width = config.get("time_embedding_dim") or 4 * config["block_out_channels"][0]
        yield InputSpec("class_labels", "condition", floats(width))
    elif kind is not None:  # "projection", "simple_projection"
        width = config["projection_class_embeddings_input_dim"]
        yield InputSpec("class_labels", "condition", floats(width))
    elif classes is not None:
        yield InputSpec("class_labels", "condition", TensorSpec("int64", (batch,)), limit=classes)
    if config.get("time_cond_proj_dim") is not None:
        yield InputSpec("timestep_cond", "condition", floats(config["time_cond_proj_dim"]))
    if config.get("addition_embed_type") == "text_time":
        pooled, time_ids = _micro_conditions(config)
        yield InputSpec("text_embeds", "condition", floats(pooled))
        yield InputSpec("time_ids", "condition", floats(time_ids))


def _micro_conditions(config: Config) -> tuple[int, int]:
    """The width of SDXL's pooled text, and how many numbers it reads beside it.

    The config has only the width of both together. The refiner's one text encoder pools what it gives as
    hidden states, to the same width; the base model's hidden states are those of two encoders.
    """
    together, each = config["projection_class_embeddings_input_dim"], config["addition_time_embed_dim"]
    refines = together == _text_width(config) + REFINER_TIME_IDS * each
    time_ids = REFINER_TIME_IDS if refines else BASE_TIME_IDS
    return together - time_ids * each, time_ids
