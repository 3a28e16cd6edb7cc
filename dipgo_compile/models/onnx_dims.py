"""The free dimensions of an ONNX file's inputs: which of them are the batch, the latents' height and width
and the prompt's length, and how large the others are.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from dipgo_compile.errors import InputError, ModelError
from dipgo_compile.models.onnx_roles import Roles
from dipgo_compile.models.reading import SIZES

SAMPLE_SIZES = ("batch", None, "height", "width")


def input_shapes(
    graph: ir.Graph, meaning: Mapping[str, str], dims: Mapping[str, int], source: str
) -> dict[str, tuple[int | str, ...]]:
    """Every input's dimensions: numbers, or the name of the size that they are. Raises InputError for those
    that are neither, all at once, and for a name in ``dims`` that is none.
    """
    shapes: dict[str, tuple[int | str, ...]] = {}
    unknown, options, used = [], [], set(SIZES) - {"tokens"}
    for value in graph.inputs:
        name = str(value.name)
        sizes: list[int | str] = []
        for axis, free in enumerate(_free(value)):
            if isinstance(free, int):
                sizes.append(free)
                continue
            place = f"{name}.{axis}"
            known = meaning.get(place) or meaning.get(free)
            used |= {place, known or free}
            size = dims.get(place) or known or dims.get(free) or _usual(value, axis)
            if size is None or (size == "tokens" and "tokens" not in dims):
                unknown.append(f"axis {axis} of {name!r}" + (f" ({free})" if free else ""))
                options.append("--tokens N" if size == "tokens" else f"--dim {free or place}=N")
            else:
                sizes.append(size)
        shapes[name] = tuple(sizes)
    if unknown:
        raise unknown_sizes(unknown, " ".join(dict.fromkeys(options)), source)
    wrong = sorted(dims.keys() - used)
    if wrong:
        raise InputError(
            f"the file has no free dimension {wrong[0]!r}", where=source, available=sorted(used - {""})
        )
    return shapes


def meanings(graph: ir.Graph, roles: Roles) -> dict[str, str]:
    """Free dimensions of the inputs, by name and as ``INPUT.AXIS``, and the sizes that they are: those of the
    sample by where they stand, all others where they are called the same.
    """
    meaning: dict[str, str] = {}
    for value in sorted(graph.inputs, key=lambda value: value.name != roles.sample):
        for axis, free in enumerate(_free(value)):
            if isinstance(free, int):
                continue
            if value.name == roles.sample:
                size = SAMPLE_SIZES[axis]
            else:
                size = "tokens" if _usual(value, axis) == "tokens" else None
            if size is not None and free not in meaning:
                meaning |= {f"{value.name}.{axis}": size} | ({free: size} if free else {})
    return meaning


def _free(value: ir.Value) -> list[int | str]:
    """The dimensions: numbers, or names; empty names for those without."""
    if value.shape is None:
        raise ModelError(
            f"the file doesn't say how many axes {value.name!r} has", mend="export the denoiser with shapes"
        )
    return [size if isinstance(size, int) else str(size.value or "") for size in value.shape]


def _usual(value: ir.Value, axis: int) -> str | None:
    """What a free dimension is by where it stands: axis 0 counts samples, axis 1 of three axes tokens."""
    if axis == 0:
        return "batch"
    return "tokens" if axis == 1 and len(value.shape or ()) == 3 else None


def unknown_sizes(what: list[str], options: str, source: str) -> InputError:
    """The error for dimensions that nobody told the size of; ``options`` would."""
    verb = "is" if len(what) == 1 else "are"
    return InputError(
        f"{', '.join(what)} {verb} free in the file, and a plan is compiled for fixed sizes",
        where=source,
        mend=f"give the size: {options}",
    )
