"""A denoiser that diffusers doesn't know, as a stranger would write and export it."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

CHANNELS, WIDTH, TEXT = 4, 16, 12
NEWEST_OPSET = 23  # that torch exports


class Attention(nn.Module):
    def __init__(self, context: int) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(context, WIDTH), nn.Linear(context, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        heads = [layer(t).unflatten(-1, (2, -1)).transpose(1, 2) for layer, t in
                 ((self.q, x), (self.k, context), (self.v, context))]  # fmt: skip
        attended = nn.functional.scaled_dot_product_attention(*heads)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out


class Stage(nn.Module):
    """A convolution that the time shifts, then attention to the text."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(4, WIDTH), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.shift = nn.Linear(WIDTH, WIDTH)
        self.attention = Attention(TEXT)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        x = x + self.conv(
            nn.functional.silu(self.norm(x)) + self.shift(nn.functional.silu(time))[..., None, None]
        )
        batch, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, text)
        return tokens.transpose(1, 2).reshape(batch, channels, height, width)


class Stranger(nn.Module):
    """``strength`` is an input that no diffusers denoiser has: a weight per sample."""

    def __init__(self, stages: int = 3) -> None:
        super().__init__()
        self.enter = nn.Conv2d(CHANNELS, WIDTH, 3, padding=1)
        self.clock = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.stages = nn.ModuleList(Stage() for _ in range(stages))
        self.leave = nn.Conv2d(2 * WIDTH, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, text: Tensor, strength: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(1000) * torch.arange(WIDTH // 2) / (WIDTH // 2))
        angles = t.float().expand(x.shape[0])[:, None] * frequencies
        time = self.clock(torch.cat([angles.sin(), angles.cos()], dim=-1))
        hidden = first = self.enter(x)
        for stage in self.stages:
            hidden = stage(hidden, time, text)
        prediction: Tensor = self.leave(torch.cat([hidden, first], dim=1)) * strength[:, None, None, None]
        return prediction


NAMES = ["x", "t", "text", "strength"]
FREE = {
    "x": {0: "batch", 2: "rows", 3: "columns"},
    "t": {0: "batch"},
    "text": {0: "batch", 1: "length"},
    "strength": {0: "batch"},
}


def arguments(batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sample, timesteps, text and strength."""
    return (
        torch.randn(batch, CHANNELS, 8, 8),
        torch.full((batch,), 500),
        torch.randn(batch, 5, TEXT),
        torch.ones(batch),
    )


def export_today(module: nn.Module, path: Path) -> None:
    """By today's exporter, with its newest opset, a free batch and the weights in a file of their own."""
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            arguments(2),
            path,
            dynamo=True,
            input_names=NAMES,
            output_names=["eps"],
            opset_version=NEWEST_OPSET,
            dynamic_shapes=({0: batch},) * len(NAMES),
            external_data=True,
            verbose=False,
        )


def export_torchscript(
    module: nn.Module,
    path: Path,
    free: dict[str, dict[int, str]],
    given: tuple[Tensor, ...] | None = None,
    names: list[str] = NAMES,
) -> None:
    """By the older exporter, through TorchScript. ``free``: names of dimensions by input and axis."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            given or arguments(2),
            path,
            dynamo=False,
            input_names=names,
            output_names=["eps"],
            opset_version=17,
            dynamic_axes=free,
        )
