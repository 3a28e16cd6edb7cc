"""How shapes are named, asked for and counted."""

from __future__ import annotations

import pytest

from dipgo_compile.drawing.draw import batches
from dipgo_compile.errors import InputError
from dipgo_compile.shapes import MAX_SHAPES, Shape, Shapes, check_distinct, parse_images, parse_sizes


def grid(images, sizes, upscaling=8) -> Shapes:
    return Shapes(tuple(Shape(count, *size) for size in sizes for count in images), upscaling)


@pytest.mark.parametrize(
    ("images", "sizes", "text"),
    [
        ((1,), ((64, 64),), "1 image of 512x512"),
        ((4, 3, 2, 1), ((96, 64), (64, 64)), "1 to 4 images of 512x512 or 768x512"),
        ((1, 2), ((64, 64), (64, 96), (96, 64)), "1 or 2 images of 512x512, 512x768 or 768x512"),
        ((8, 1, 2), ((64, 64),), "1, 2 or 8 images of 512x512"),
    ],
)
def test_shapes_read_as_a_sentences_subject(images, sizes, text) -> None:
    assert str(grid(images, sizes)) == text


def test_shapes_that_are_no_grid_are_listed() -> None:
    shapes = Shapes((Shape(4, 64, 64), Shape(1, 96, 96)), 8)
    assert str(shapes) == "1 image of 768x768; 4 images of 512x512"


def test_without_pixels_latents_are_counted() -> None:
    assert str(grid((1,), ((8, 8),), 1)) == "1 image of 8x8 latents"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2x512x768", Shape(2, 64, 96)),
        ("512x512", Shape(4, 64, 64)),
        ("1", Shape(1, 64, 96)),
    ],
)
def test_a_shape_has_a_name(text: str, found: Shape) -> None:
    shapes = grid((4, 3, 2, 1), ((64, 96), (64, 64)))
    assert shapes.parse(text) == found
    assert shapes.parse(shapes.label(found)) == found


@pytest.mark.parametrize("text", ["", "x", "2x", "0x8x8", "1x2x3x4", "2*512*512", "-1", "1e3"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a shape"):
        grid((1,), ((8, 8),)).parse(text)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"images": 5}, "5 images"),
        ({"images": 1, "height": 8}, "1 image of 8xany width"),
        ({"height": 8, "width": 9}, "8x9"),
    ],
)
def test_a_refusal_says_what_was_asked_for(asked, text) -> None:
    with pytest.raises(InputError) as refused:
        grid((1, 2), ((64, 64),)).matching(**asked)
    assert refused.value.what == f"the bundle has no plan for {text}"
    assert refused.value.available == ("1 or 2 images of 512x512",)


@pytest.mark.parametrize(
    ("text", "images"), [("3", (3,)), ("1..4", (1, 2, 3, 4)), ("1,2, 8", (1, 2, 8)), ("1..2,4", (1, 2, 4))]
)
def test_batches_are_numbers_ranges_and_lists(text: str, images: tuple[int, ...]) -> None:
    assert parse_images(text) == images


@pytest.mark.parametrize("text", ["", "0", "-1", "1..", "..4", "1.5", "a", "1..2..3", "1,,2", "4..1"])
def test_other_batches_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"no number of images|is empty"):
        parse_images(text)


def test_an_endless_range_takes_no_memory() -> None:
    with pytest.raises(InputError, match=f"more than {MAX_SHAPES} shapes"):
        check_distinct(parse_images("1..999999999"))


def test_sizes_are_heights_and_widths() -> None:
    assert parse_sizes("512x512, 768x512") == ((512, 512), (768, 512))


@pytest.mark.parametrize("text", ["", "512", "512x", "x512", "0x512", "512x512x3", "512*512", "512x512,"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        parse_sizes(text)


@pytest.mark.parametrize(
    ("counts", "images", "drawn"),
    [
        ((1, 2, 3, 4), 9, [4, 4, 1]),
        ((4,), 5, [4, 4]),
        ((2, 4), 7, [4, 2, 2]),
        ((1,), 2, [1, 1]),
    ],
)
def test_images_are_drawn_in_the_largest_batches_that_they_fill(counts, images, drawn) -> None:
    shapes = grid(counts, ((64, 64), (64, 96)))
    assert [shape.images for shape in batches(shapes, images, width=768)] == drawn
    assert {shape.width for shape in batches(shapes, images, width=768)} == {96}


@pytest.mark.parametrize(
    ("latents", "shape"),
    [((2, 4, 8, 9), Shape(2, 8, 9)), ((2, 4, 5, 8, 9), Shape(2, 8, 9)), ((2,), Shape(2, 1, 1))],
)
def test_a_shape_is_that_of_latents(latents: tuple[int, ...], shape: Shape) -> None:
    assert Shape.of(latents) == shape
