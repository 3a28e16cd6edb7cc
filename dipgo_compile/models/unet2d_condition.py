"""UNet2DConditionModel: Stable Diffusion 1.x and 2.x, BK-SDM."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dipgo_compile.models.base import Config, Geometry, InputSpec
from dipgo_compile.program import TensorSpec

# In execution order: the paper's nine blocks, and the layers inside them.
_BLOCKS = re.compile(r"down_blocks\.\d+|mid_block|up_blocks\.\d+")
_LAYERS = re.compile(
    r"(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(?:resnets|attentions|downsamplers|upsamplers)\.\d+"
)


class UNet2DCondition:
    class_name = "UNet2DConditionModel"
    guidance_order = ("uncond", "cond")

    def inputs(self, config: Config, geometry: Geometry) -> tuple[InputSpec, ...]:
        g = geometry
        sample = TensorSpec("float32", (g.batch, config["in_channels"], g.height, g.width))
        text = TensorSpec("float32", (g.batch, g.tokens, config["cross_attention_dim"]))
        return (
            InputSpec("sample", "sample", sample),
            InputSpec("timestep", "timestep", TensorSpec("float32", (1,))),
            InputSpec("encoder_hidden_states", "condition", text),
        )

    def unconditional_classes(self, config: Config) -> int | None:
        return None

    def blocks(self, config: Config, scopes: Iterable[str], granularity: str) -> tuple[str, ...]:
        pattern = _BLOCKS if granularity == "block" else _LAYERS
        return tuple(scope for scope in scopes if pattern.fullmatch(scope))
