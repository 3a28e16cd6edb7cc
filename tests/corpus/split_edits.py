"""Changes to a bundle with split guidance, which lies beside the base, and to the base what splits it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.corpus.alteration import OPENS, REFUSED, Alteration, Edit, Json, edited
from tests.corpus.base import Base
from tests.corpus.plan_edits import rename, reshape


def alterations(base: Base, random: Random) -> Iterator[Alteration]:
    for verdict, edits in ((REFUSED, REFUSALS), (OPENS, ALLOWED)):
        for name, edit in edits.items():
            yield from (_of_split(base, alteration) for alteration in edited(name, verdict, edit))
    for name, edit in OF_THE_BASE.items():
        yield from edited(f"the base with {name}", REFUSED, edit)
    yield from edited(
        "the base, split in no way", OPENS, lambda d: d["interface"].update(split_guidance=False)
    )


def _of_split(base: Base, alteration: Alteration) -> Alteration:
    def change(bundle: Path) -> None:
        shutil.rmtree(bundle)
        bundle.mkdir()
        for file in base.split.iterdir():
            if file.is_file():
                os.link(file, bundle / file.name)
        alteration.change(bundle)

    return Alteration(alteration.name, alteration.verdict, change)


def runs(d: Json) -> list[Json]:
    return [row for row in d["instructions"] if "run" in row]


def answer(d: Json, *noise_preds: object) -> None:
    d["calls"][0].update(noise_pred=list(noise_preds))


REFUSALS: dict[str, Edit] = {
    "split guidance left out": lambda d: d["interface"].pop("split_guidance"),
    "split guidance denied": lambda d: d["interface"].update(split_guidance=False),
    "split guidance of words": lambda d: d["interface"].update(split_guidance="yes"),
    "split guidance of nothing": lambda d: d["interface"].update(guidance=None),
    "conditions named as inputs": lambda d: d["interface"].update(conditions=["text@uncond", "text@cond"]),
    "a condition named twice": lambda d: d["interface"].update(conditions=["text", "text"]),
    "a half that is no input": lambda d: d["inputs"].remove("text@cond"),
    "a half by another name": rename("text@cond", "text@conditional"),
    "a half of another shape": reshape("text@cond", [1, 2, 2, 2]),
    "a half without a batch": reshape("text@cond", []),
    "halves without a batch": lambda d: (reshape("text@cond", [])(d), reshape("text@uncond", [])(d)),
    "one prediction": lambda d: d["calls"][0].update(noise_pred=d["calls"][0]["noise_pred"][0]),
    "a list of one prediction": lambda d: answer(d, d["calls"][0]["noise_pred"][0]),
    "no prediction": answer,
    "three predictions": lambda d: answer(d, *d["calls"][0]["noise_pred"], d["calls"][0]["noise_pred"][0]),
    "a prediction of nobody": lambda d: answer(d, d["calls"][0]["noise_pred"][0], "?"),
    "a prediction of null": lambda d: answer(d, d["calls"][0]["noise_pred"][0], None),
    "a prediction before its time": lambda d: answer(d, *d["calls"][-1]["noise_pred"]),
    "a prediction of another shape": lambda d: answer(d, d["calls"][0]["noise_pred"][0], "text@cond"),
    "a run of no half": lambda d: runs(d)[-1].pop("half"),
    "a prologue of no half": lambda d: runs(d)[0].pop("half"),
    "a run of a third half": lambda d: runs(d)[-1].update(half="both"),
    "a run of half a number": lambda d: runs(d)[-1].update(half=0.5),
}

ALLOWED: dict[str, Edit] = {
    "halves exchanged": lambda d: d["interface"].update(guidance=["cond", "uncond"]),
    "every run of one half": lambda d: [row.update(half="cond") for row in runs(d)],
    "the first minor version": lambda d: d.update(version=[1, 0]),
    "one prediction for both halves": lambda d: [
        call.update(noise_pred=[call["noise_pred"][1]] * 2) for call in d["calls"]
    ],
}

OF_THE_BASE: dict[str, Edit] = {
    "split guidance in name": lambda d: d["interface"].update(split_guidance=True),
    "a run of a half": lambda d: runs(d)[-1].update(half="cond"),
    "two predictions for a call": lambda d: answer(d, "e0", "e0"),
    "two predictions for every call": lambda d: [
        call.update(noise_pred=[call["noise_pred"]] * 2) for call in d["calls"]
    ],
}
