"""DiTTransformer2DModel: class-conditional diffusion transformers (DiT-XL/2)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dipgo_compile.errors import InputError
from dipgo_compile.models.base import Config, Geometry, InputSpec, check_patches, scopes_matching
from dipgo_compile.program import TensorSpec

_BLOCKS = re.compile(r"transformer_blocks\.\d+")
_LAYERS = re.compile(r"transformer_blocks\.\d+\.(?:attn1|ff)")


class DiTTransformer2D:
    class_name = "DiTTransformer2DModel"
    guidance_order = ("cond", "uncond")
    tokens = 0

    def inputs(self, config: Config, geometry: Geometry) -> tuple[InputSpec, ...]:
        g = geometry
        check_patches(config, g, self.class_name)
        if g.height != g.width:
            raise InputError(
                f"a DiT draws square images, not {g.height} by {g.width} latents",
                where=self.class_name,
                mend="give the same height and width",
            )
        sample = TensorSpec("float32", (g.batch, config["in_channels"], g.height, g.width))
        classes = TensorSpec("int64", (g.batch,))
        return (
            InputSpec("hidden_states", "sample", sample),
            InputSpec("timestep", "timestep", TensorSpec("float32", (g.batch,))),
            InputSpec("class_labels", "condition", classes, limit=config["num_embeds_ada_norm"]),
        )

    def arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(inputs)

    def unconditional_classes(self, config: Config) -> int | None:
        return int(config["num_embeds_ada_norm"])

    def blocks(self, config: Config, scopes: Iterable[str], granularity: str) -> tuple[str, ...]:
        return scopes_matching(_BLOCKS if granularity == "block" else _LAYERS, scopes)
