"""The pruner network (paper, section 3.3): from learnable queries to a gate for every (call, block)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

HEAD_WIDTH = (
    64  # hidden units of a head; at the width of the queries SD1.5's 450 heads would be 236 M parameters
)


class Pruner(nn.Module):
    """Queries, one encoder layer, a head per query.

    Self-attention runs over the blocks of one call; the calls are its batch. The heads' last layers start at
    weight 0 and bias (0, 1), so every block is kept at first. ``forward`` gives logits of shape (calls,
    blocks, 2), columns (reuse, keep).
    """

    def __init__(self, calls: int, blocks: int, width: int = 512, heads: int = 8, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.queries = nn.Parameter(torch.randn(calls, blocks, width))
            self.encoder = nn.TransformerEncoderLayer(
                width, heads, dim_feedforward=4 * width, dropout=0.0, batch_first=True
            )
            self.head = Heads(calls * blocks, width, HEAD_WIDTH)

    def forward(self) -> Tensor:
        calls, blocks, width = self.queries.shape
        features: Tensor = self.encoder(self.queries)
        logits: Tensor = self.head(features.reshape(calls * blocks, width))
        return logits.reshape(calls, blocks, 2)


class Heads(nn.Module):
    """One three-layer perceptron per row of its input: (heads, width) to (heads, 2).

    The hidden layers start as He et al. (2015) have it, so the features keep unit scale; their norm scales
    the step that the zero-initialised last layer takes.
    """

    def __init__(self, heads: int, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(heads, hidden, width) * math.sqrt(2 / width))
        self.first_bias = nn.Parameter(torch.zeros(heads, hidden))
        self.second = nn.Parameter(torch.randn(heads, hidden, hidden) * math.sqrt(2 / hidden))
        self.second_bias = nn.Parameter(torch.zeros(heads, hidden))
        self.last = nn.Parameter(torch.zeros(heads, 2, hidden))
        self.last_bias = nn.Parameter(torch.tensor([0.0, 1.0]).repeat(heads, 1))

    def forward(self, features: Tensor) -> Tensor:
        hidden = torch.relu(torch.einsum("hoi,hi->ho", self.first, features) + self.first_bias)
        hidden = torch.relu(torch.einsum("hoi,hi->ho", self.second, hidden) + self.second_bias)
        return torch.einsum("hoi,hi->ho", self.last, hidden) + self.last_bias


def keep_scores(logits: Tensor) -> Tensor:
    """The probability of computing each block, (calls, blocks). The first call is always computed: 1."""
    scores = logits.softmax(-1)[..., 1]
    return torch.cat([torch.ones_like(scores[:1]), scores[1:]])


def straight_through(logits: Tensor, keep: Tensor) -> Tensor:
    """Gates of shape (calls, blocks, 2), columns (reuse, keep), whose values are ``keep`` exactly.

    ``keep``: (calls, blocks), booleans: the arg max of the logits after the gate cascade. The gradient is
    that of the logits' soft max, except in the first call, which has none.
    """
    soft = logits.softmax(-1)
    hard = torch.stack([~keep, keep], -1).to(soft.dtype)
    gates = hard + (soft - soft.detach())
    return torch.cat([hard[:1], gates[1:]])
