"""Changes to the files of a bundle: damage, links, things that are no files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.corpus.alteration import OPENS, PLAN, REFUSED, Alteration, Change, put, put_recorded
from tests.corpus.base import Base

DATA = (
    "constants.bin",
    "mask.json",
    "weights.bin",
)  # any bytes will do there, if the plan says they're these
FLIPS = 4


def alterations(base: Base, random: Random) -> Iterator[Alteration]:
    for name in sorted(base.document()["files"]):
        yield from _damaged(name, (base.path / name).read_bytes(), random)
    for name in (PLAN, *sorted(base.document()["files"])):
        yield from _replaced(name, base)
    yield from _surroundings(base)


def _damaged(name: str, data: bytes, random: Random) -> Iterator[Alteration]:
    def changed(what: str, new: bytes) -> Iterator[Alteration]:
        yield Alteration(f"{name} {what}", REFUSED, lambda bundle: put(bundle, name, new))
        if name in DATA and len(new) == len(data):
            recorded = f"{name} {what}, and recorded so"
            yield Alteration(recorded, OPENS, lambda bundle: put_recorded(bundle, name, new))

    for size in {0, 1, len(data) // 2, len(data) - 1}:
        yield from changed(f"cut to {size} bytes", data[:size])
    yield from changed("with a byte more", data + b"\0")
    for at in random.sample(range(len(data)), FLIPS):
        flipped = bytes([data[at] ^ (1 << random.randrange(8))])
        yield from changed(f"with a bit of byte {at} flipped", data[:at] + flipped + data[at + 1 :])


def _replaced(name: str, base: Base) -> Iterator[Alteration]:
    """Something else under a file's name."""

    def instead(what: str, verdict: str, make: Change) -> Alteration:
        def change(bundle: Path) -> None:
            (bundle / name).unlink()
            make(bundle / name)

        return Alteration(f"{what} for {name}", verdict, change)

    yield instead("nothing", REFUSED, lambda place: None)
    yield instead("a directory", REFUSED, lambda place: place.mkdir())
    yield instead("a pipe", REFUSED, os.mkfifo)
    yield instead("a dangling link", REFUSED, lambda place: place.symlink_to("nowhere"))
    yield instead("a link to itself", REFUSED, lambda place: place.symlink_to(name))
    yield instead("a link out of the bundle", REFUSED, lambda place: place.symlink_to(base.outside / name))
    yield instead(
        "a relative link out of the bundle",
        REFUSED,
        lambda place: place.symlink_to(os.path.relpath(base.outside / name, place.parent)),
    )

    def within(place: Path) -> None:
        shutil.copyfile(base.path / name, place.with_name("elsewhere.bin"))
        place.symlink_to("elsewhere.bin")

    yield instead("a link within the bundle", OPENS, within)


def _surroundings(base: Base) -> Iterator[Alteration]:
    """What lies beside the files that the plan lists."""

    def stamps(content: bytes) -> Change:
        return lambda bundle: put(bundle, "cache/verified.json", content)

    def manifest(content: bytes) -> Change:
        def change(bundle: Path) -> None:
            for file in bundle.glob("cache/*/manifest.json"):
                put(bundle, str(file.relative_to(bundle)), content)

        return change

    def without_cache(bundle: Path) -> None:
        shutil.rmtree(bundle / "cache")

    def packed(change: Change) -> Change:
        """A change to every packed engine, which the manifest doesn't allow for."""

        def every(bundle: Path) -> None:
            for file in bundle.glob("cache/*/*.onnx"):
                change(file)

        return every

    def cut(file: Path) -> None:
        put(file.parent, file.name, file.read_bytes()[:-1])

    def flip(file: Path) -> None:
        data = file.read_bytes()
        put(file.parent, file.name, data[:-1] + bytes([data[-1] ^ 1]))

    deep = b"[" * 100_000
    yield Alteration(
        "a file that the plan does not list", OPENS, lambda bundle: put(bundle, "more.txt", b"more")
    )
    yield Alteration("no cache", OPENS, without_cache)
    for what, content in {"empty": b"", "deep": deep, "binary": b"\xff\0", "a list": b"[1]"}.items():
        yield Alteration(f"stamps: {what}", OPENS, stamps(content))
        yield Alteration(f"the cache's manifest: {what}", OPENS, manifest(content))
    yield Alteration(
        "the cache's manifest: sizes of words",
        OPENS,
        manifest(b'{"weights.bin": {"nbytes": "x", "sha256": 1}, "early.onnx": null}'),
    )
    yield Alteration("packed engines cut", OPENS, packed(cut))
    yield Alteration("packed engines with a bit flipped", OPENS, packed(flip))
    yield Alteration("packed engines missing", OPENS, packed(lambda file: file.unlink()))
