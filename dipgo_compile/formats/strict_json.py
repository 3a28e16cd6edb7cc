"""JSON that every language reads alike.

Python's reader takes more than the standard allows (``NaN``, numbers beyond a double, halves of surrogate
pairs), and the standard leaves open what a name given twice, an integer beyond 64 bits or a thousand levels
of nesting mean. A file that comes from elsewhere may hold none of these: readers could disagree on what it
says.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

MAX_DEPTH = 64  # levels; a plan's fixed parts have seven, a model's config a few more
INTEGERS = range(-(1 << 63), 1 << 64)
LONGEST_INTEGER = 20  # characters, sign included
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def loads(text: str) -> Any:
    """The document. Raises ValueError, with the reason."""
    try:
        document = json.loads(
            text, object_pairs_hook=_members, parse_constant=_refuse, parse_float=_double, parse_int=_integer
        )
    except RecursionError:
        raise _too_deep() from None
    if isinstance(document, dict | list):
        _check_depth(document)
    if SURROGATE.search(text):
        json.dumps(document, ensure_ascii=False).encode()  # UnicodeEncodeError, a ValueError, for half a pair
    return document


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} is given twice")
    return members


def _refuse(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is not a number")


def _double(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError(f"{_short(literal)} is beyond a double")
    return number


def _integer(literal: str) -> int:
    if len(literal) <= LONGEST_INTEGER and (number := int(literal)) in INTEGERS:
        return number
    raise ValueError(f"{_short(literal)} is beyond 64 bits")


def _check_depth(document: dict[str, Any] | list[Any]) -> None:
    """Level by level: a recursive walk would have the limit that it is to enforce."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def _short(literal: str) -> str:
    return literal if len(literal) <= 40 else f"{literal[:20]}... ({len(literal)} characters)"
