"""Altered bundles, and what a reader must make of each.

A bundle may come from anywhere, so its readers, in Python and in C++, are held to the same list: the bundle
of ``base.py`` with one thing changed, and a verdict. *refused*: an error with a message, before anything is
computed. *opens*: the change is one that the format allows. *either*: bytes of an ONNX file changed at
random, which may or may not matter; only a crash would be wrong. Most changes to ``plan.json`` come twice:
with the checksum made right again, as an attacker would, and left as it was, as damage would leave it.

``python -m tests.corpus DIRECTORY`` writes them all, for readers in other languages and as seeds for fuzzing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.corpus import file_edits, onnx_edits, plan_edits, shape_edits, split_edits, text_edits, types
from tests.corpus.alteration import EITHER, OPENS, REFUSED, Alteration, write
from tests.corpus.base import Base, make_base

__all__ = ["EITHER", "OPENS", "REFUSED", "Alteration", "Base", "corpus", "make_base", "write"]

GROUPS = {
    "plan": plan_edits.alterations,
    "split": split_edits.alterations,
    "types": types.alterations,
    "text": text_edits.alterations,
    "files": file_edits.alterations,
    "onnx": onnx_edits.alterations,
    "shapes": shape_edits.alterations,
}


def corpus(base: Base, seed: int = 0) -> Iterator[Alteration]:
    """All alterations of a base. What is chosen at random follows from the seed."""
    for group, alterations in GROUPS.items():
        generator = random.Random(f"{seed} {group}")
        for alteration in alterations(base, generator):
            yield alteration.within(group)
