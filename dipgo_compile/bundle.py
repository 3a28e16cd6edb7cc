"""The bundle: a directory NAME.dipgo with a plan and everything it needs.

``plan.json``, one ONNX file per engine, ``weights.bin`` (external data that all engines share),
``constants.bin`` (tensors known at build time) and ``mask.json``. All files lie side by side, because ONNX
forbids external data outside the directory of its model. Backends keep what they can make again in
``cache/``, which no part of the bundle depends on. A bundle is written to a directory beside its place
and renamed when complete, so a killed build leaves no half bundle.

A bundle for several shapes (``shapes.py``) is a bundle for the one that takes the most memory, with further
plans beside it, ``plan-1x64x64.json`` for one image of 64x64 latents. Each is a plan like any other, with
engines of its own, over the same weights and constants; ``plan.json`` lists them, and all their files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dipgo_compile.errors import BundleError, CompileError
from dipgo_compile.formats.integrity import STAMPS, check_files, record, remember
from dipgo_compile.formats.plan_json import (
    Bytes,
    constant_offsets,
    dump_plan,
    load_plan,
    parse_document,
    read_files,
)
from dipgo_compile.graphs.locations import external_locations
from dipgo_compile.plan import FileRecord, Plan
from dipgo_compile.shapes import Shape, Shapes
from dipgo_compile.verifier import verify_interface, verify_memory, verify_program, verify_shapes

PLAN, CONSTANTS, WEIGHTS, MASK = "plan.json", "constants.bin", "weights.bin", "mask.json"
CACHE = "cache"
MAX_PLAN_BYTES = (
    1 << 26
)  # a plan of a thousand calls has a few MB; as Python objects it takes tens of times that
REBUILD = "build the bundle again, or copy it again from its source"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, seen as one of a single shape. Constants are read-only views of the mapped file.

    ``plan`` is that shape's. ``plans`` are those of all shapes, that of plan.json first; by default the only
    one.
    """

    path: Path
    plan: Plan
    plans: tuple[Plan, ...] = ()

    def __post_init__(self) -> None:
        if not self.plans:
            object.__setattr__(self, "plans", (self.plan,))

    @property
    def shapes(self) -> Shapes:
        """All shapes, this one first."""
        others = (plan.shape for plan in self.plans if plan.shape != self.plan.shape)
        return Shapes((self.plan.shape, *others), _upscaling(self.plans[0]))

    def shaped(self, shape: Shape | str | None) -> Bundle:
        """The same bundle, seen as one of another of its shapes, which may go by its name
        (``Shapes.parse``). None changes nothing. Raises InputError for a shape that is not there.
        """
        if shape is None:
            return self
        wanted = self.shapes.parse(shape) if isinstance(shape, str) else shape
        found = next((plan for plan in self.plans if plan.shape == wanted), None)
        if found is None:
            raise self.shapes.refusal(self.shapes.label(wanted))
        return replace(self, plan=found)

    def engine_path(self, engine: str) -> Path:
        return self.path / self.plan.engine_files[engine]


def _upscaling(first: Plan) -> int:
    """Pixels for each latent. A plan without further shapes doesn't say, but its image decoder may."""
    if first.shapes or first.pipeline is None:
        return first.upscaling
    (pixels,) = first.pipeline.image_decoder.outputs.values()
    return pixels.shape[1] // first.shape.height


def write_bundle(
    path: str | Path,
    plan: Plan,
    write_engines: Callable[[Path], None],
    mask_json: str,
    *,
    others: Sequence[Plan] = (),
    overwrite: bool = True,
    needed_bytes: int = 0,
) -> Plan:
    """Write a bundle and return its plan with ``files`` and ``shapes`` filled in. ``others`` are the plans of
    further shapes.

    ``write_engines`` writes the engine files and ``weights.bin`` into the directory it is given;
    ``needed_bytes``, where known, is compared with the free space beforehand. A bundle already at ``path`` is
    replaced only once the new one is complete. Raises BundleError when the disk is full, not writable, or
    ``path`` holds something else.
    """
    path = Path(path)
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        _check_place(path, overwrite)
        free = shutil.disk_usage(path.parent).free
        if free < needed_bytes:
            raise _no_space(path, f"{needed_bytes:,} bytes are needed, {free:,} are free")
        staging = _sibling(path, "tmp")
        staging.mkdir()
        try:
            write_engines(staging)
            plan = _write_plans(staging, plan, others, mask_json)
            _move_into_place(staging, path)
            remember(path, plan.files, path / CACHE / STAMPS)
        except BaseException:  # Ctrl-C too
            shutil.rmtree(staging, ignore_errors=True)
            raise
    return plan


def open_bundle(path: str | Path, *, verify: bool = True) -> Bundle:
    """Open a bundle and check it: format, version, every size, every name and offset, the program and its
    memory.

    ``verify=False`` skips only the SHA-256 of the files, which reads those that changed since the last time.
    Raises BundleError.
    """
    path = Path(path)
    where = path / PLAN
    if not where.is_file():
        raise BundleError(
            f"{path} is not a bundle: it has no {PLAN}" if path.exists() else f"there is no bundle at {path}",
            available=sorted(str(found) for found in path.parent.glob("*.dipgo"))
            if path.parent.is_dir()
            else (),
            mend="make one with: dipgo-compile build --mask mask.json",
        )
    try:
        _check_links(path)
        document = parse_document(_read_text(where), str(where))
        files = read_files(document, str(where))
        if CONSTANTS not in files:
            raise BundleError(
                f"the plan does not list {CONSTANTS}", where=where, available=files, mend=REBUILD
            )
        check_files(
            path,
            files,
            contents=verify,
            stamps=path / CACHE / STAMPS,
            mend=REBUILD,
        )
        constants = _map(path / CONSTANTS)
        plan = _verified(load_plan(document, constants, str(where)))
        others = {}
        for shape, name in plan.shapes.items():
            where = path / name
            others[shape] = _verified(_read_other(where, plan.files, constants))
            verify_shapes(plan, shape, others[shape])
        plans = (plan, *others.values())
        check_locations(path, (model for each in plans for model in _models(each)), files)
    except CompileError as error:
        raise BundleError(f"the plan is not valid: {error.what}", where=where, mend=REBUILD) from error
    except OSError as error:
        raise BundleError(
            f"cannot read the bundle: {error.strerror or error}", where=error.filename or path
        ) from error
    return Bundle(path, plan, plans)


def check_locations(directory: Path, models: Iterable[str], files: Collection[str]) -> None:
    """Raises BundleError for an ONNX file of ``directory`` with weights in another file than ``files``."""
    for name in dict.fromkeys(models):
        file = directory / name
        for location in external_locations(file.read_bytes(), file):
            if location not in files:
                raise BundleError(
                    f"{name} has weights in {location!r}, which is no file of the bundle",
                    where=file,
                    available=files,
                    mend=REBUILD,
                )


def _verified(plan: Plan) -> Plan:
    """Raises CompileError."""
    verify_program(plan.program)
    verify_memory(plan.program, plan.memory)
    verify_interface(plan.program, plan.interface)
    return plan


def _read_other(where: Path, files: Mapping[str, FileRecord], constants: Bytes) -> Plan:
    """The plan of a further shape, whose files must be those of plan.json."""
    plan = load_plan(parse_document(_read_text(where), str(where)), constants, str(where))
    for name, expected in plan.files.items():
        if files.get(name) != expected:
            raise BundleError(
                f"{where.name} was made with another {name} than {PLAN}", where=where, mend=REBUILD
            )
    return plan


def _models(plan: Plan) -> tuple[str, ...]:
    """The ONNX files of a plan."""
    parts = () if plan.pipeline is None else (plan.pipeline.text_encoder, plan.pipeline.image_decoder)
    return (*plan.engine_files.values(), *(part.file for part in parts if part is not None))


def _check_links(path: Path) -> None:
    """A bundle's files lie in it, listed or not: engines name weight files too, and a link could lead those
    anywhere.
    """
    inside = Path(os.path.realpath(path))
    for entry in os.scandir(path):
        if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(inside):
            raise BundleError(
                f"{entry.name} is a link that leaves the bundle",
                where=entry.path,
                mend="copy the bundle with its files instead of links: cp -rL",
            )


def _read_text(file: Path) -> str:
    size = file.stat().st_size
    if size > MAX_PLAN_BYTES:
        raise BundleError(f"{file.name} has {size:,} bytes, which no plan has", where=file, mend=REBUILD)
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(
            f"{file.name} is not UTF-8 text: {error.reason}", where=file, mend=REBUILD
        ) from None


def _map(file: Path) -> Bytes:
    if not file.is_file():
        raise BundleError(f"{file.name} is missing from the bundle", where=file, mend=REBUILD)
    if file.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, np.uint8)
    return np.memmap(file, np.uint8, mode="r")


def _write_plans(directory: Path, plan: Plan, others: Sequence[Plan], mask_json: str) -> Plan:
    """Write everything but engines and weights: constants, mask, and the plans, plan.json last."""
    offsets, constants_bytes = _write_constants(directory / CONSTANTS, (plan, *others))
    (directory / MASK).write_text(mask_json, encoding="utf-8")
    files = {file.name: record(file) for file in sorted(directory.iterdir())}
    shapes = {other.shape: f"plan-{other.shape}.json" for other in others}
    for other, places in zip(others, offsets[1:], strict=True):
        parts = () if other.pipeline is None else other.pipeline.files
        read = {*other.engine_files.values(), *parts, CONSTANTS, WEIGHTS, MASK}
        own = replace(other, files={name: entry for name, entry in files.items() if name in read})
        file = directory / shapes[other.shape]
        _write_durably(file, dump_plan(own, places, constants_bytes))
        files |= {file.name: record(file)}
    plan = replace(plan, files=files, shapes=shapes)
    _write_durably(directory / PLAN, dump_plan(plan, offsets[0], constants_bytes))
    return plan


def _write_constants(file: Path, plans: Sequence[Plan]) -> tuple[list[dict[str, int]], int]:
    """Answers where each plan's lie, and the file's size."""
    tables = [plan.program.constants for plan in plans]
    offsets, size = constant_offsets(*tables)
    with file.open("wb") as stream:
        for constants, places in zip(tables, offsets, strict=True):
            for name, data in constants.items():
                stream.seek(places[name])
                stream.write(np.ascontiguousarray(data).data)
        stream.truncate(size)
    return offsets, size


def _write_durably(file: Path, text: str) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _sibling(path: Path, kind: str) -> Path:
    """A hidden directory on the same file system. The process id tells a later build whose it is."""
    return path.with_name(f".{path.name}.{os.getpid()}.{kind}")


def _check_place(path: Path, overwrite: bool) -> None:
    if not path.exists():
        return
    if not (path / PLAN).is_file():
        raise BundleError(
            "there is something here that is not a bundle", where=path, mend="choose another place"
        )
    if not overwrite:
        raise BundleError(
            "there is already a bundle here", where=path, mend="choose another place, or overwrite it"
        )


def _move_into_place(staging: Path, path: Path) -> None:
    """Directories cannot be replaced in one step: the old bundle steps aside, and comes back if the move
    fails.
    """
    if not path.exists():
        staging.rename(path)
        return
    old = _sibling(path, "old")
    path.rename(old)
    try:
        staging.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_stale(path: Path) -> None:
    """Remove what killed builds left; bring back a bundle that stepped aside for a move that never came."""
    for kind in ("old", "tmp"):
        for left in path.parent.glob(f".{path.name}.*.{kind}"):
            owner = left.name.split(".")[-2]
            if owner.isdigit() and _alive(int(owner)):
                continue
            if kind == "old" and not path.exists():
                left.rename(path)
            else:
                shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # an earlier, failed build of this very process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            raise _no_space(path, f"the disk filled up while writing; {free:,} bytes are free now") from error
        raise BundleError(
            f"cannot write the bundle: {error.strerror or error}", where=error.filename or path
        ) from error


def _no_space(path: Path, detail: str) -> BundleError:
    return BundleError(
        f"no space left for the bundle: {detail}", where=path, mend="free some space, or choose another disk"
    )
