"""What a training run is made of. Everything that changes its result is here, so a checkpoint can refuse
another run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from dipgo_compile.errors import InputError
from dipgo_trainer.losses import CONSISTENCY, SPACES

LEARNING_RATES = {"DiTTransformer2DModel": 10.0}  # the paper's exception
DEFAULT_LEARNING_RATE = 0.1


@dataclass(frozen=True)
class TrainConfig:
    """Options of a run; the defaults are the paper's, but for ``consistency_weight``.

    ``ratio``: share of the MACs to prune. ``consistency_weight``: factor of the consistency loss; 1 is the
    paper's, None is measured before the first step (``losses.consistency_weight``). ``tau``: the kept share
    below which the sparsity term is dropped for a step; None is ``1 - ratio``, the paper's 0.2 at its 0.8.
    ``pruning_steps``: training steps over which tau falls from 1 to that; 0 is the paper's, whose tau is
    constant.
    ``lr``: None is the family's. ``guidance_scale``: None is without guidance. ``samples``: how many
    different batches of (prompt, noise) there are; each one's full chain is computed once.
    ``gradient_checkpointing``: keep only the caches of each call, and compute its inside again for the
    gradient: a third slower, but memory doesn't grow with a call's size.
    """

    ratio: float = 0.8
    train_steps: int = 1000
    lr: float | None = None
    weight_decay: float = 1e-4
    warmup_steps: int = 10
    alpha: float = 1.0
    consistency_weight: float | None = None
    tau: float | None = None
    pruning_steps: int = 0
    loss: str = "ssim"
    space: str = "latent"
    guidance_scale: float | None = 7.5
    batch_size: int = 1
    samples: int = 200
    seed: int = 0
    gradient_checkpointing: bool = True

    def __post_init__(self) -> None:
        _choose("loss", self.loss, CONSISTENCY)
        _choose("space", self.space, SPACES)
        if not 0 < self.ratio < 1:
            raise InputError(
                f"the ratio {self.ratio} is not between 0 and 1", mend="0.8 prunes 80 % of the MACs"
            )
        for name in ("train_steps", "batch_size", "samples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.pruning_steps <= self.train_steps:
            raise InputError(
                f"pruning_steps is {self.pruning_steps}; between 0 and {self.train_steps} can be taken",
                mend="two thirds of the training steps leave the last third for the mask to settle",
            )

    @property
    def sparsity_floor(self) -> float:
        """tau, resolved."""
        return 1 - self.ratio if self.tau is None else self.tau

    def sparsity_floor_at(self, step: int) -> float:
        """tau at a step, counted from 0: over the ``pruning_steps`` it falls from 1, fast at first and then
        ever slower (Zhu and Gupta 2017, equation 1).

        A constant tau prunes everything in a few dozen steps, and few of those blocks come back.
        """
        left = max(0.0, 1 - step / self.pruning_steps) if self.pruning_steps else 0.0
        return self.sparsity_floor + (1 - self.sparsity_floor) * left**3

    def learning_rate(self, class_name: str) -> float:
        """The base learning rate for a denoiser class."""
        return LEARNING_RATES.get(class_name, DEFAULT_LEARNING_RATE) if self.lr is None else self.lr

    def lr_factor(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to zero at ``train_steps``. ``step`` counts from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.train_steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * progress))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def differences(self, other: dict[str, Any]) -> list[str]:
        """How a stored config differs from this one, in words."""
        mine = self.to_json()
        return [
            f"{field.name}: {then} then, {mine[field.name]} now"
            for field in fields(self)
            if (then := other.get(field.name, field.default)) != mine[field.name]
        ]


def _choose(name: str, value: str, known: Any) -> None:
    if value not in known:
        raise InputError(f"unknown {name} {value!r}", available=known)
