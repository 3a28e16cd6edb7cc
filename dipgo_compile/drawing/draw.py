"""From prompts to images: the same way round whether PyTorch is at its ends or the bundle itself.

The ends make conditions of prompts and pixels of latents; between them are the noise of a seed (``noise.py``)
and the runtime's denoising loop. ``bundled.py`` has the ends that a bundle brings, ``generate.py``
those of a diffusers pipeline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dipgo_compile.drawing.noise import seeded_noise
from dipgo_compile.drawing.png import write_png
from dipgo_compile.errors import InputError
from dipgo_compile.models import family_of
from dipgo_compile.plan import Plan
from dipgo_compile.program import Array
from dipgo_compile.shapes import Shape, Shapes

if TYPE_CHECKING:
    from PIL.Image import Image

    from dipgo_compile.runtime import Runtime

PNG = ".png"


@dataclass(frozen=True)
class Job:
    """One image to draw. ``prompt`` is text, or a class of a class-conditional model, by name or number."""

    prompt: str
    seed: int


@dataclass(frozen=True, eq=False)
class Drawn:
    """An image, uint8 (height, width, 3), RGB, and the seconds that its share of the denoising loop took."""

    job: Job
    pixels: Array
    seconds: float

    @property
    def image(self) -> Image:
        """As an image of Pillow, which must be installed."""
        from PIL import Image

        return Image.fromarray(self.pixels)

    def save(self, path: str | Path) -> None:
        """Write a picture; its format follows from the ending. All but PNG take Pillow."""
        path = Path(path)
        if path.suffix.lower() == PNG:
            write_png(path, self.pixels)
        else:
            self.image.save(path)


class Ends(Protocol):
    """What is before the denoising loop, and after it."""

    def conditions(self, plan: Plan, prompts: Sequence[str], negative_prompt: str) -> Mapping[str, Array]:
        """What ``Runtime.denoise`` takes, for one prompt an image, as many as the plan denoises together."""
        ...

    def image_latents(self, noise: Array) -> Array:
        """The latents of the image that an image-to-image plan begins with, float32 of the shape of
        ``noise``, which chooses from the distribution that the image encoder gives.
        """
        ...

    def decode(self, latents: Array) -> Array:
        """Final latents to pixels, uint8 (images, height, width, 3), RGB."""
        ...


def draw(
    runtime: Runtime,
    ends: Ends,
    jobs: Sequence[Job],
    *,
    negative_prompt: str = "",
    guidance_scale: float | None = None,
    callback: Callable[[int], None] | None = None,
    height: int | None = None,
    width: int | None = None,
) -> Iterator[Drawn]:
    """Draw the jobs, in order, as many together as the bundle was built for.

    ``guidance_scale`` is ``Runtime.denoise``'s unless given; ``height`` and ``width`` choose among the
    bundle's sizes, by default that of ``runtime.plan``. ``callback`` gets the index of every denoiser
    call that computes anything. Raises InputError.
    """
    plan = runtime.plan
    if negative_prompt and plan.interface.guidance is None:
        raise InputError(
            "a negative prompt was given, but the bundle was built without guidance",
            mend="build it with guidance, or leave the negative prompt out",
        )
    image, interface = plan.interface.image_latents, plan.interface
    drawn = (*(() if image is None else (image,)), interface.latents, *interface.draws)
    done = 0
    for shape in batches(runtime.shapes, len(jobs), height, width):
        plan = runtime.bundle.shaped(shape).plan
        shapes = [plan.program.specs[name].shape for name in drawn]  # in a diffusers pipeline's order
        batch = list(jobs[done : done + shape.images])
        done += len(batch)
        padded = batch + [batch[-1]] * (shape.images - len(batch))
        prompts = [job.prompt for job in padded]
        conditions: dict[str, Any] = {**ends.conditions(plan, prompts, negative_prompt)}
        noises = seeded_noise([job.seed for job in padded], shapes)
        if image is not None:
            conditions["image_latents"] = ends.image_latents(noises.pop(0))
        noise, *draws = noises
        started = time.perf_counter()
        latents = runtime.denoise(
            noise, guidance_scale=guidance_scale, draws=draws, callback=callback, **conditions
        )
        seconds = (time.perf_counter() - started) / len(batch)
        for job, pixels in zip(batch, ends.decode(latents), strict=False):  # what fills up isn't asked for
            yield Drawn(job, pixels, seconds)


def batches(
    shapes: Shapes, images: int, height: int | None = None, width: int | None = None
) -> Iterator[Shape]:
    """The shapes that so many images of one size are drawn in, one after the other: the largest batches that
    the images fill, and where none is as small as what is left, the smallest. Raises InputError for a size
    that is not there.
    """
    first = shapes.matching(height=height, width=width).all[0]
    together = {
        shape.images: shape for shape in shapes if (shape.height, shape.width) == (first.height, first.width)
    }
    while images > 0:
        count = max((count for count in together if count <= images), default=min(together))
        yield together[count]
        images -= count


def images_together(plan: Plan) -> int:
    """How many images a bundle denoises together."""
    return plan.shape.images


def check_image(plan: Plan, given: bool) -> None:
    """Refuse an image for a plan that begins with noise, and none for one that begins with an image. Raises
    InputError.
    """
    if given and plan.interface.image_latents is None:
        raise InputError(
            "the bundle begins with noise, not with an image",
            mend="build it for images (dipgo-compile build --start-step K), or leave the image out",
        )
    if not given and plan.interface.image_latents is not None:
        raise InputError(
            "the bundle begins with an image, and none was given",
            mend="give one (--image FILE), or build a bundle without --start-step",
        )


def class_ids(plan: Plan, names: Mapping[str, int], prompts: Sequence[str]) -> dict[str, list[int]]:
    """The classes that prompts name, or give by number, and as many of "no class", as the halves ``cond`` and
    ``uncond``. Raises InputError for a class that the model doesn't have.
    """
    nothing = family_of(plan.model["class"]).unconditional_classes(plan.model["config"])
    assert nothing is not None  # a family with class labels has one
    chosen = []
    for prompt in prompts:
        label = int(prompt) if prompt.isdecimal() else names.get(prompt)
        if label is None or label >= nothing:
            raise InputError(
                f"the model has no class {prompt!r}", available=(f"0 to {nothing - 1}", *sorted(names)[:20])
            )
        chosen.append(label)
    return {"cond": chosen, "uncond": [nothing] * len(chosen)}
