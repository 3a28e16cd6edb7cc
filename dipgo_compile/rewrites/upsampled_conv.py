"""upsampled_conv: a convolution of an image that was enlarged to twice its size reads it as it was before.

Taking the nearest pixel writes every pixel four times, so a 3 x 3 convolution behind it multiplies the same
pixel by several weights. An even row of the result sees the pixels above and here, these with the sum of two
rows of weights; an odd row sees those here and below; columns likewise. So it is four convolutions of 2 x 2,
one for each corner of a pixel: 4 multiplications where there were 9. Their results go into every second row
and column.

Stable Diffusion 1.5's last one, 640 channels from 32 x 32 to 64 x 64, 2 samples, 2 cores: 124 and 63 ms, in
OpenVINO's bfloat16 63 and 40 ms. The weights grow by 7/9. Left alone where that is more than the convolution
reads and writes, as in a U-Net's smaller images: memory matters more there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from dipgo_compile.program import Array
from dipgo_compile.rewrites.base import Form, Rewrite, constant, describe, dims, producer, weight

NEAREST = {  # ways to take the nearest pixel that are the same when every size is doubled
    ("asymmetric", "floor"),
    ("half_pixel", "round_prefer_ceil"),
    ("half_pixel", "round_prefer_floor"),
}
_THREE_BY_THREE = {
    "auto_pad": "NOTSET",
    "dilations": (1, 1),
    "group": 1,
    "pads": (1, 1, 1, 1),
    "strides": (1, 1),
}
_DEFAULTS = {**_THREE_BY_THREE, "pads": (0, 0, 0, 0)}


def _pattern(op: Any, x: Any) -> Any:
    enlarged = op.Resize(x, _allow_other_inputs=True, _outputs=["enlarged"])
    return op.Conv(enlarged, _allow_other_inputs=True, _outputs=["y"])


def _is_valid(context: Any, x: ir.Value, enlarged: ir.Value, y: ir.Value) -> bool:
    resize, conv = producer(enlarged), producer(y)
    shape, large, result = dims(x), dims(enlarged), dims(y)
    kernels = conv.inputs[1]
    if shape is None or result is None or kernels is None or weight(kernels) is None:
        return False
    if len(shape) != 4 or large != (*shape[:2], 2 * shape[2], 2 * shape[3]):
        return False
    mode = _attribute(resize, "coordinate_transformation_mode", "half_pixel")
    rounding = _attribute(resize, "nearest_mode", "round_prefer_floor")
    if _attribute(resize, "mode", "nearest") != "nearest" or (mode, rounding) not in NEAREST:
        return False
    if any(_attribute(conv, name, _DEFAULTS[name]) != value for name, value in _THREE_BY_THREE.items()):
        return False
    sizes = dims(kernels) or ()
    return sizes[2:] == (3, 3) and 7 * math.prod(sizes[:2]) <= math.prod(shape) + math.prod(result)


def _replacement(op: Any, x: ir.Value, enlarged: ir.Value, y: ir.Value) -> ir.Value:
    conv, (batch, channels, *_) = producer(y), dims(y) or ()
    _, _, height, width = dims(x) or ()
    kernels, *bias = conv.inputs[1:]
    assert kernels is not None

    shapes: dict[tuple[int, ...], ir.Value] = {}

    def shaped(value: ir.Value, *sizes: int) -> ir.Value:
        if sizes not in shapes:
            name = f"upsampled_conv.{'x'.join(map(str, sizes))}"
            shapes[sizes] = constant(op, conv, name, np.array(sizes))
        return describe(op.Reshape(value, shapes[sizes]), conv, y, sizes)

    rows = []
    for down in (0, 1):
        corners = []
        for right in (0, 1):
            name = f"{kernels.name}.{down}{right}"
            corner = constant(op, conv, name, corner_kernels(_data(kernels), down, right))
            pads = [1 - down, 1 - right, down, right]
            part = op.Conv(x, corner, *bias, kernel_shape=[2, 2], pads=pads)
            part = describe(part, conv, y, (batch, channels, height, width))
            corners.append(shaped(part, batch, channels, height, width, 1))
        row = describe(op.Concat(*corners, axis=4), conv, y, (batch, channels, height, width, 2))
        rows.append(shaped(row, batch, channels, height, 1, 2 * width))
    whole = describe(op.Concat(*rows, axis=3), conv, y, (batch, channels, height, 2, 2 * width))
    return shaped(whole, batch, channels, 2 * height, 2 * width)


def corner_kernels(kernels: Array, down: int, right: int) -> Array:
    """Kernels of (2, 2) that see of a small image what ``kernels``, of (3, 3), see of the enlarged one at odd
    rows (``down``) and odd columns (``right``).
    """
    rows = _two_of_three(kernels, 2, down)
    return _two_of_three(rows, 3, right)


def _two_of_three(kernels: Array, axis: int, odd: int) -> Array:
    first, middle, last = np.split(kernels, 3, axis)
    pair = (np.add(first, middle), last) if odd else (first, np.add(middle, last))
    return np.concatenate(pair, axis)


def _data(value: ir.Value) -> Array:
    data = weight(value)
    assert data is not None
    return data.numpy()


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    value = node.attributes[name].value if name in node.attributes else default
    return tuple(value) if isinstance(value, list) else value


class UpsampledConv(Rewrite):
    """Resize to twice the size, nearest pixels, then a 3 x 3 Conv becomes four Convs of 2 x 2 and what puts
    their results together.
    """

    name = "upsampled_conv"
    backends = frozenset({"onnxruntime", "openvino"})
    cpu_only = True
    forms = (Form(_pattern, _replacement, _is_valid),)
