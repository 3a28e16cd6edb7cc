"""Writing PNG files with nothing but the standard library.

The pixels are stored, not compressed: deflate's blocks of at most 65,535 bytes as they are. A runtime in
another language writes the same file, byte for byte, in a page of code and without zlib. Images are small
beside the model that drew them.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from dipgo_compile.errors import InputError
from dipgo_compile.program import Array

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ZLIB_HEADER = b"\x78\x01"
MAX_STORED = 65535  # bytes of a stored block
DEPTH, TRUE_COLOUR = 8, 2


def write_png(path: Path, pixels: Array) -> None:
    """Write an image: uint8 (height, width, 3), RGB. Raises InputError for other arrays."""
    path.write_bytes(encode_png(pixels))


def encode_png(pixels: Array) -> bytes:
    """The bytes of that file."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError(
            f"this is not an image: {pixels.dtype} of shape {pixels.shape}",
            mend="pass uint8 of shape (height, width, 3)",
        )
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = pixels.reshape(height, 3 * width)
    header = struct.pack(">IIBBBBB", width, height, DEPTH, TRUE_COLOUR, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", _stored(rows.tobytes())), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _stored(data: bytes) -> bytes:
    """A zlib stream of stored blocks."""
    stream = bytearray(ZLIB_HEADER)
    for start in range(0, len(data), MAX_STORED):
        block = data[start : start + MAX_STORED]
        last = start + MAX_STORED >= len(data)
        stream += struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF) + block
    return bytes(stream + struct.pack(">I", zlib.adler32(data)))
