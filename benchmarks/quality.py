"""How good the images of a mask are, beside those of other ways to spend as few MACs.

Every row is compiled and denoised by the runtime, a batch of images at a time, from the same noise and
conditions; the judge is this repository's Fashion-MNIST classifier. Speed is not measured here.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import results
from benchmarks.peers import Peer, Peers
from benchmarks.scenarios import QualityScenario
from dipgo_compile.build import BuildOptions, build
from dipgo_compile.drawing.conditions import encode
from dipgo_compile.errors import InputError
from dipgo_compile.mask import Mask
from dipgo_compile.measure import machine
from dipgo_compile.models.source import load, load_pipeline
from dipgo_compile.plan import Plan
from dipgo_compile.runtime import Runtime
from models.recipes import fashion_mnist
from models.recipes.classifier import FashionClassifier, load_classifier
from models.recipes.evaluation import captions_for, evaluation_labels
from models.recipes.fashion_mnist import CLASS_NAMES
from models.recipes.metrics import class_agreement, fid

MAX_BATCH = 100  # images a run: more would only take more memory
Progress = Callable[[int, int, str], None]
"""Told how many batches are done, of how many, and the row's name."""


@dataclass(frozen=True)
class Options:
    """``rows``: names or their beginnings (``random`` is all random masks); None is all."""

    images: int
    seed: int
    guidance_scale: float
    rows: tuple[str, ...] | None = None
    data: Path = fashion_mnist.DEFAULT_DATA_DIR

    def __post_init__(self) -> None:
        if self.images < 1 or self.images % len(CLASS_NAMES):
            raise InputError(
                f"{self.images} images cannot be shared equally by {len(CLASS_NAMES)} classes",
                mend=f"use a multiple of {len(CLASS_NAMES)}",
            )

    @property
    def batch(self) -> int:
        """Images denoised together: the largest divisor of all that isn't too large."""
        return next(size for size in range(MAX_BATCH, 0, -1) if self.images % size == 0)

    def chosen(self, peers: tuple[Peer, ...]) -> tuple[Peer, ...]:
        if self.rows is None:
            return peers
        unknown = [row for row in self.rows if not any(peer.name.startswith(row) for peer in peers)]
        if unknown:
            raise InputError(f"there is no row {unknown[0]!r}", available=[peer.name for peer in peers])
        return tuple(peer for peer in peers if peer.name.startswith(self.rows))


def run(
    scenario: QualityScenario,
    options: Options,
    file: Path,
    *,
    resume: bool,
    command: str,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judge every row and write ``file`` after each. With ``resume``, rows that it already has are kept.

    Raises InputError when the rows in ``file`` were made with other settings, and what building raises.
    """
    mask = Mask.load(scenario.mask)
    model, pipeline = load(mask.model.source), load_pipeline(mask.model.source)
    settings = _settings(scenario, options, mask, model.denoiser)
    content = results.begin(file, settings, "rows", resume)
    judge = _Judge(options)
    peers = Peers(model, mask, scenario)
    for peer in options.chosen(peers.all()):
        if any(row["name"] == peer.name for row in content["rows"]):
            continue
        made = peer.make()
        start = time.perf_counter()
        images = draw(made, pipeline, options, partial(_tell, progress, peer.name))
        row = {
            "name": peer.name,
            "about": peer.about,
            "steps": made.scheduler.num_inference_steps,
            "calls": made.calls,
            "macs_per_image": peers.macs_per_image(made),
            **judge(images),
            "seconds": round(time.perf_counter() - start, 1),
        }
        content["rows"].append(row)
        content |= {"machine": machine.describe(), "command": command}
        results.write(file, content)
    return content


def draw(mask: Mask, pipeline: Any, options: Options, progress: Callable[[int, int], None]) -> torch.Tensor:
    """Compile ``mask`` and draw the images, float32 (images, 3, height, width) in [0, 1].

    The noise is one seeded draw for all images, so it is the same whatever the mask.
    """
    drawn = []
    with tempfile.TemporaryDirectory(prefix="dipgo-quality-") as directory:
        path = build(
            mask, output=Path(directory) / "row.dipgo", options=BuildOptions(images=options.batch)
        ).path
        with Runtime.load(path, verify=False) as runtime, torch.no_grad():
            plan = runtime.plan
            prompts = _prompts(plan, evaluation_labels(options.images))
            _, *shape = plan.program.specs[plan.interface.latents].shape
            generator = torch.Generator().manual_seed(options.seed)
            noise = torch.randn((options.images, *shape), generator=generator)
            starts = range(0, options.images, options.batch)
            for done, start in enumerate(starts):
                progress(done, len(starts))
                batch = slice(start, start + options.batch)
                encoded = encode(pipeline, plan, prompts[batch], "")
                conditions: dict[str, Any] = {name: value.numpy() for name, value in encoded.items()}
                latents = runtime.denoise(
                    noise[batch].numpy(), guidance_scale=options.guidance_scale, **conditions
                )
                scaled = torch.from_numpy(latents) / pipeline.vae.config.scaling_factor
                pixels = pipeline.vae.decode(scaled, return_dict=False)[0]
                drawn.append((pixels / 2 + 0.5).clamp(0, 1))
            progress(len(starts), len(starts))
    return torch.cat(drawn)


def _prompts(plan: Plan, labels: torch.Tensor) -> list[str]:
    """What is asked for: captions, or names of classes where the model draws classes."""
    if plan.interface.conditions == ("class_labels",):
        return [CLASS_NAMES[label] for label in labels.tolist()]
    return captions_for(labels)


def _tell(progress: Progress | None, row: str, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total, row)


class _Judge:
    """Class agreement and FID against the test split, which no model here was trained on."""

    def __init__(self, options: Options) -> None:
        self._classifier: FashionClassifier = load_classifier()
        self._labels = evaluation_labels(options.images)
        self._reference = fashion_mnist.load("test", options.data).images.float() / 255

    def __call__(self, images: torch.Tensor) -> dict[str, float]:
        return {
            "class_agreement": class_agreement(images, self._labels, self._classifier),
            "fid": fid(images, self._reference, self._classifier),
        }


def _settings(
    scenario: QualityScenario, options: Options, mask: Mask, denoiser: torch.nn.Module
) -> dict[str, Any]:
    """All that the figures depend on. The weights count: a model that was trained on is another model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(denoiser.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return {
        **asdict(scenario),
        "images": options.images,
        "seed": options.seed,
        "guidance_scale": options.guidance_scale,
        "model": mask.model.source,
        "weights_sha256": digest.hexdigest(),
        "keep_sha256": hashlib.sha256("\n".join(mask.rows).encode()).hexdigest(),
    }
