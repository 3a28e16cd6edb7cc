"""The shapes that one bundle serves: how many images are made together, and how large.

Nothing is dynamic: each shape has a plan of its own, compiled for it alone, with its own folded constants,
memory and engines. What is chosen at run time is the plan. Sizes come in two units. Plans and tensors count
latents, as ``Shape`` does; people, and so every option and message, count what ``build`` was given: pixels,
``upscaling`` along an axis for each latent, or of an ONNX file, which has no pixels, the latents themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dipgo_compile.errors import InputError

MAX_SHAPES = 64
"""Of one bundle: each takes a compilation, and engines of its own."""
Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """``images`` made together; ``height`` and ``width`` of their latents."""

    images: int
    height: int
    width: int

    @classmethod
    def of(cls, latents: Sequence[int]) -> Shape:
        """The shape of an array (images, channels, ..., height, width); axes that are not there count 1."""
        sizes = (*latents, 1, 1, 1) if len(latents) < 3 else tuple(latents)
        return cls(sizes[0], sizes[-2], sizes[-1])

    def __str__(self) -> str:
        return f"{self.images}x{self.height}x{self.width}"


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes of a bundle. The first is the one to take where nothing else is asked for. As text they are
    a sentence's subject: ``1 to 4 images of 512x512 or 768x512``, heights first.
    """

    all: tuple[Shape, ...]
    upscaling: int = 1

    def __iter__(self) -> Iterator[Shape]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def matching(
        self, images: int | None = None, height: int | None = None, width: int | None = None
    ) -> Shapes:
        """Those of so many images and such a size, in the units of ``build``; None leaves open. Raises
        InputError, naming what there is, where that is none.
        """
        found = tuple(
            shape
            for shape in self.all
            if images in (None, shape.images)
            and height in (None, shape.height * self.upscaling)
            and width in (None, shape.width * self.upscaling)
        )
        if not found:
            raise self.refusal(_asked(images, height, width))
        return Shapes(found, self.upscaling)

    def parse(self, text: str) -> Shape:
        """The shape that ``text`` names as IMAGESxHEIGHTxWIDTH, in the units of ``build``, or as HEIGHTxWIDTH
        or IMAGES, if that is enough. Raises InputError.
        """
        if not re.fullmatch(r"[1-9]\d{0,8}(x[1-9]\d{0,8}){0,2}", text, re.ASCII):
            raise InputError(
                f"{text!r} is not a shape",
                available=(str(self),),
                mend="write IMAGESxHEIGHTxWIDTH: 2x512x768",
            )
        sizes = [int(size) for size in text.split("x")]
        asked: list[int | None] = [*sizes]
        if len(sizes) == 2:
            asked = [None, *sizes]
        return self.matching(*asked).all[0]

    def label(self, shape: Shape) -> str:
        """What ``parse`` reads: IMAGESxHEIGHTxWIDTH, in the units of ``build``."""
        return str(Shape(shape.images, shape.height * self.upscaling, shape.width * self.upscaling))

    def refusal(self, asked: str) -> InputError:
        """The error for a shape that is not here."""
        return InputError(
            f"the bundle has no plan for {asked}",
            available=(str(self),),
            mend="ask for one of these, or build a bundle for more: dipgo-compile build --batch A..B --size "
            "HEIGHTxWIDTH,...",
        )

    def __str__(self) -> str:
        images = sorted({shape.images for shape in self.all})
        sizes = sorted({(shape.height * shape.width, shape.height, shape.width) for shape in self.all})
        if len(images) * len(sizes) != len(self.all):  # not every number of images in every size
            return "; ".join(str(Shapes((shape,), self.upscaling)) for shape in sorted(self.all))
        unit = " latents" if self.upscaling == 1 else ""
        named = [f"{height * self.upscaling}x{width * self.upscaling}" for _, height, width in sizes]
        return f"{_numbers(images)} image{'' if images == [1] else 's'} of {_alternatives(named)}{unit}"


def parse_images(text: str) -> tuple[int, ...]:
    """``4``, ``1..4``, or several of these with commas: how many images are made together. Raises
    InputError.
    """
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([1-9]\d{0,8})(?:\.\.([1-9]\d{0,8}))?\s*", part, re.ASCII)
        if not found:
            raise InputError(
                f"{part!r} is no number of images", where="--batch", mend="give a number, or a range: 1..4"
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise InputError(
                f"the range {part.strip()} is empty", where="--batch", mend=f"write it as {last}..{first}"
            )
        counts += range(first, min(last, first + MAX_SHAPES) + 1)  # enough to be refused as too many
    return tuple(counts)


def parse_sizes(text: str) -> tuple[Size, ...]:
    """``HEIGHTxWIDTH``, or several with commas. Raises InputError."""
    sizes = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([1-9]\d{0,8})x([1-9]\d{0,8})\s*", part, re.ASCII)
        if not found:
            raise InputError(
                f"{part!r} is not a size", where="--size", mend="write HEIGHTxWIDTH: 512x512,768x512"
            )
        sizes.append((int(found[1]), int(found[2])))
    return tuple(sizes)


def check_distinct(shapes: Sequence[object]) -> None:
    """Raises InputError for shapes that are asked for twice, none at all, or too many."""
    if not shapes:
        raise InputError("no shape is asked for", mend="give a number of images: --batch 1..4")
    if len(shapes) > MAX_SHAPES:
        raise InputError(f"more than {MAX_SHAPES} shapes are asked for", mend="build several bundles")
    for index, shape in enumerate(shapes):
        if shape in shapes[:index]:
            raise InputError(f"the shape {shape} is asked for twice", mend="name every shape once")


def _asked(images: int | None, height: int | None, width: int | None) -> str:
    count = "" if images is None else f"{images} image{'' if images == 1 else 's'}"
    if height is None and width is None:
        return count
    size = f"{height or 'any height'}x{width or 'any width'}"
    return f"{count} of {size}" if count else size


def _numbers(numbers: Sequence[int]) -> str:
    first, last = numbers[0], numbers[-1]
    if len(numbers) > 2 and last - first == len(numbers) - 1:
        return f"{first} to {last}"
    return _alternatives([str(number) for number in numbers])


def _alternatives(texts: Sequence[str]) -> str:
    *others, last = texts
    return f"{', '.join(others)} or {last}" if others else last
