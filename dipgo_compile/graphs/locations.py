"""The files that an ONNX model says its weights lie in.

Backends open whatever stands there, so it is read here first: a bundle may come from anywhere. That takes no
package and little time: what cannot hold a location, which is nearly everything, is passed over whole.
"""

from __future__ import annotations

from collections.abc import Iterator

from dipgo_compile.errors import BundleError

MAX_DEPTH = 64  # of graphs in attributes of nodes of graphs
KEY, VALUE = 1, 2  # the fields of an entry
LOCATION = b"location"
CHILDREN = {  # the fields of onnx.proto that lead to tensors
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse_tensor",
        23: "sparse_tensor",
    },
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


def external_locations(data: bytes, where: object) -> frozenset[str]:
    """The ``location`` of every tensor with external data in an ONNX file's bytes.

    Raises BundleError for bytes that are not the protocol buffers they have to be.
    """
    try:
        return frozenset(_locations(data, 0, len(data), "model", 0))
    except (ValueError, IndexError) as error:
        reason = "it ends too early" if isinstance(error, IndexError) else error
        raise BundleError(
            f"this is not an ONNX model: {reason}",
            where=where,
            mend="build the bundle again, or copy it again from its source",
        ) from None


def _locations(data: bytes, begin: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise ValueError("graphs are nested too deeply")
    children = CHILDREN.get(message, {})
    for field, start, stop in _fields(data, begin, end):
        if field in children and data.find(LOCATION, start, stop) >= 0:
            if children[field] == "entry":
                entry = {name: data[at:to] for name, at, to in _fields(data, start, stop)}
                if entry.get(KEY) == LOCATION:
                    yield entry.get(VALUE, b"").decode()
            else:
                yield from _locations(data, start, stop, children[field], depth + 1)


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of the fields that have a length, which messages and strings are among."""
    while at < end:
        tag, at = _varint(data, at)
        if tag >> 32:  # other readers would drop these bits, and see another field
            raise ValueError("it has a field of an unknown number")
        kind = tag & 7
        if kind == 2:
            size, start = _varint(data, at)
            at = start + size
            if at <= end:
                yield tag >> 3, start, at
        elif kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("it has a field of an unknown type")
    if at > end:
        raise IndexError


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and the place behind it."""
    number = data[at]
    if number < 0x80:  # most are
        return number, at + 1
    number &= 0x7F
    for shift in range(7, 64, 7):
        at += 1
        byte = data[at]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at + 1
    raise ValueError("it has a number of more than 64 bits")
