"""PixArtTransformer2DModel: text-to-image diffusion transformers (PixArt-alpha).

The prompt is T5's embedding with its attention mask, 1 for a token and 0 for padding. Models for 1024x1024
also read the image's size: ``resolution`` is height and width in pixels, ``aspect_ratio`` height over width.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dipgo_compile.models.base import Config, Geometry, InputSpec, check_patches, nested, scopes_matching
from dipgo_compile.program import TensorSpec

_BLOCKS = re.compile(r"transformer_blocks\.\d+")
_LAYERS = re.compile(r"transformer_blocks\.\d+\.(?:attn1|attn2|ff)")
_MICRO_CONDITIONS = {"resolution": 2, "aspect_ratio": 1}  # numbers an image
_SIZE_WITH_MICRO_CONDITIONS = 128  # latents: where the config doesn't say, the size does


class PixArtTransformer2D:
    class_name = "PixArtTransformer2DModel"
    guidance_order = ("uncond", "cond")
    tokens = 120

    def inputs(self, config: Config, geometry: Geometry) -> tuple[InputSpec, ...]:
        g = geometry
        check_patches(config, g, self.class_name)
        sample = TensorSpec("float32", (g.batch, config["in_channels"], g.height, g.width))
        width = config.get("caption_channels") or config["cross_attention_dim"]
        text = TensorSpec("float32", (g.batch, g.tokens, width))
        mask = TensorSpec("int64", (g.batch, g.tokens))
        return (
            InputSpec("hidden_states", "sample", sample),
            InputSpec("timestep", "timestep", TensorSpec("float32", (g.batch,))),
            InputSpec("encoder_hidden_states", "condition", text),
            InputSpec("encoder_attention_mask", "condition", mask, limit=2),
            *(
                InputSpec(name, "condition", TensorSpec("float32", (g.batch, numbers)))
                for name, numbers in _MICRO_CONDITIONS.items()
                if _has_micro_conditions(config)
            ),
        )

    def arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return nested(inputs, "added_cond_kwargs", _MICRO_CONDITIONS)

    def unconditional_classes(self, config: Config) -> int | None:
        return None

    def blocks(self, config: Config, scopes: Iterable[str], granularity: str) -> tuple[str, ...]:
        return scopes_matching(_BLOCKS if granularity == "block" else _LAYERS, scopes)


def _has_micro_conditions(config: Config) -> bool:
    stated = config.get("use_additional_conditions")
    return config["sample_size"] == _SIZE_WITH_MICRO_CONDITIONS if stated is None else bool(stated)
