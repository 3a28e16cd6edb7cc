"""Engines as ONNX Runtime optimised and packed them for this processor, kept beside the portable ones.

Opening a portable engine optimises its graph and copies every large weight into the layout that the kernels
read: seconds, and a private copy for every engine that uses the weight. Here that work is done once.
``BUNDLE/cache/KEY/`` holds the optimised engines, those of all shapes, over one ``weights.bin``, in which
each tensor, packed or not, lies once however many engines read it. Sessions map the file, so its pages are
shared by all engines and all processes, and the kernel may drop them. Engines that use the same weights are
optimised and packed together (``joined.py``).

Such a cache is only good for the ONNX Runtime and the processor it was made with: both are in its key, with
the hashes of the engines. It can be deleted at any time. Making one takes the ``onnx`` package; a machine
that only runs bundles, and has no cache that fits, opens the portable engines instead.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import platform
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import onnxruntime as ort

from dipgo_compile.bundle import CACHE, WEIGHTS, Bundle, check_locations
from dipgo_compile.errors import BackendError, BundleError
from dipgo_compile.formats.integrity import STAMPS, check_files, record, remember
from dipgo_compile.plan import FileRecord

if TYPE_CHECKING:
    import onnx

MANIFEST = "manifest.json"
MIN_EXTERNAL_BYTES = 1024  # smaller tensors stay in the ONNX file
ALIGNMENT = 4096  # of a tensor in the weight file: a page, so that none is mapped for two tensors. ONNX
# Runtime packs anew, into private memory, what is packed but doesn't begin at a multiple of 256.
KEY_LENGTH = 12  # hexadecimal digits
SAMPLE_BYTES = 64
CHUNK_BYTES = 1 << 20  # compared at once
WRITTEN_BYTES = 64 << 20  # at once: Linux keeps what is written in large pieces on huge pages, and maps these
# as they are. DiT-XL/2 took up to a fifth less than with weights on small pages: see docs/profile.md.
PACKED = "prepacked_"
"""ONNX Runtime's key for a packed form of a tensor in ``external_data``: ``NAME|OFFSET;LENGTH;CHECKSUM|...``,
one part for each buffer of the packed form."""

OpenEngine = Callable[[str, Path | bytes, Path, Mapping[str, str]], object]
"""Makes a session of the named engine, from its file or its content, that saves its optimised graph at the
path, with these session options.
"""


@dataclass(frozen=True)
class EngineCache:
    """The cache of one bundle, all its shapes, for this machine's processor and ONNX Runtime, whether it
    exists or not.
    """

    bundle: Bundle
    directory: Path

    @classmethod
    def of(cls, bundle: Bundle) -> EngineCache:
        files = bundle.plans[0].files  # those of all shapes
        parts = [ort.__version__, _processor(), *(files[name].sha256 for name in _sources(bundle))]
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:KEY_LENGTH]
        return cls(bundle, bundle.path / CACHE / f"cpu-onnxruntime-{ort.__version__}-{key}")

    def check(self, *, contents: bool) -> bool:
        """Whether all files are there in their full size, and with ``contents`` unaltered."""
        try:
            manifest = json.loads((self.directory / MANIFEST).read_text(encoding="utf-8"))
            records = {name: FileRecord(**entry) for name, entry in manifest.items()}
            engines = engine_names(self.bundle)
            if set(records) != {WEIGHTS, *engines}:
                return False
            stamps = self.directory / STAMPS
            check_files(self.directory, records, contents=contents, stamps=stamps, mend="delete the cache")
            check_locations(self.directory, engines, records)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError, BundleError):
            return False
        return True

    def path(self, engine: str) -> Path:
        return self.directory / self.bundle.plan.engine_files[engine]

    def make(self, open_engine: OpenEngine) -> None:
        """Optimise and pack every engine. The cache appears under its name when it is whole.

        Raises BackendError where ONNX Runtime fails or writes something this module doesn't understand,
        OSError when the disk is full or not writable.
        """
        staging = self.directory.with_name(f".{self.directory.name}.{os.getpid()}.tmp")
        shutil.rmtree(staging, ignore_errors=True)
        try:
            staging.mkdir(parents=True)
            with (
                (staging / WEIGHTS).open("w+b", buffering=WRITTEN_BYTES) as stream,
                _Store(stream) as store,
                closing(self._saved(staging, open_engine)) as saved,  # so nothing writes on after a failure
            ):
                for each in saved:
                    _take_apart(each.graph, each.files, store)
            records = {WEIGHTS: store.record()}
            records |= {file.name: record(file) for file in staging.iterdir() if file.name != WEIGHTS}
            manifest = {name: asdict(entry) for name, entry in sorted(records.items())}
            (staging / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            shutil.rmtree(self.directory, ignore_errors=True)  # one that was incomplete, or altered
            staging.rename(self.directory)
            remember(self.directory, records, self.directory / STAMPS)
        except BaseException:  # Ctrl-C too
            shutil.rmtree(staging, ignore_errors=True)
            raise

    def _saved(self, directory: Path, open_engine: OpenEngine) -> Generator[_Saved]:
        """The engines as ONNX Runtime saves them. The next are made while the caller works on the last."""
        from dipgo_compile.backends import joined

        def alone(file: str) -> _Saved:
            target = directory / file
            open_engine(engines[file], self.bundle.path / file, target, _saving(target))
            return _Saved(target, [file])

        def together(files: list[str]) -> _Saved:
            target = directory / files[0]
            graph = joined.join([models.pop(file) for file in files]).SerializeToString()
            folder = {"session.model_external_initializers_file_folder_path": str(self.bundle.path)}
            open_engine(", ".join(engines[file] for file in files), graph, target, _saving(target) | folder)
            return _Saved(target, files)

        def save(files: list[str]) -> list[_Saved]:
            if len(files) > 1:
                with suppress(Exception):  # an altered file breaks anything: alone, the one to blame is named
                    return [together(files)]
            return [alone(file) for file in files]

        engines = engine_names(self.bundle)
        models = {file: model for file in engines if (model := joined.read(self.bundle.path / file))}
        first, *rest = [*([file] for file in engines if file not in models), *joined.group(models)]
        with ThreadPoolExecutor(1) as ahead:  # one: every group on its way takes disk and memory
            coming = ahead.submit(save, first)
            for following in rest:
                saved = coming.result()
                coming = ahead.submit(save, following)
                yield from saved
            yield from coming.result()


@dataclass(frozen=True)
class _Saved:
    """A graph as ONNX Runtime saved it, with weights of its own beside it, and the engines that it is."""

    graph: Path
    files: list[str]


def can_make() -> bool:
    """Whether this machine has what making a cache takes."""
    return find_spec("onnx") is not None


def engine_names(bundle: Bundle) -> dict[str, str]:
    """The engines of all shapes, by their files."""
    return {file: name for plan in bundle.plans for name, file in plan.engine_files.items()}


def _sources(bundle: Bundle) -> Iterator[str]:
    """The files of the bundle that a cache is made from."""
    for plan in bundle.plans:
        yield from plan.engine_files.values()
    if WEIGHTS in bundle.plans[0].files:
        yield WEIGHTS


def _processor() -> str:
    """The model and its instruction sets: kernels, and with them the layout of weights, depend on both."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    named = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    return "\n".join(named.get(name, "") for name in ("model name", "flags", "Features"))


class _Store:
    """The weight file while it is written and hashed. Equal bytes are stored once."""

    def __init__(self, stream: IO[bytes]) -> None:
        """``stream`` can be read, too."""
        self._stream, self._end, self._sha256 = stream, 0, hashlib.sha256()
        self._places: dict[tuple[int, bytes, bytes], list[int]] = {}
        self._hashing = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hashing.shutdown()

    def add(self, data: memoryview) -> int:
        """The offset at which the bytes lie."""
        places = self._places.setdefault(_sample(data), [])
        for place in places:
            if self._holds(place, data):
                return place
        self._append(bytes(-self._end % ALIGNMENT))
        places.append(self._end)
        self._append(data)
        return places[-1]

    def record(self) -> FileRecord:
        return FileRecord(self._end, self._sha256.hexdigest())

    def _holds(self, place: int, data: memoryview) -> bool:
        self._stream.flush()
        return all(
            os.pread(self._stream.fileno(), CHUNK_BYTES, place + at)[: len(data) - at]
            == bytes(data[at : at + CHUNK_BYTES])
            for at in range(0, len(data), CHUNK_BYTES)
        )

    def _append(self, data: bytes | memoryview) -> None:
        hashed = self._hashing.submit(self._sha256.update, data)  # while it is written
        try:
            self._stream.write(data)
        finally:
            hashed.result()
        self._end += len(data)


def _sample(data: memoryview) -> tuple[int, bytes, bytes]:
    """What equal tensors have in common, read in no time."""
    return len(data), bytes(data[:SAMPLE_BYTES]), bytes(data[-SAMPLE_BYTES:])


def _weights_beside(engine: Path) -> Path:
    return engine.with_suffix(".weights")


def _saving(engine: Path) -> dict[str, str]:
    """The session options that save an engine's weights beside it, packed ones included."""
    return {
        "session.optimized_model_external_initializers_file_name": _weights_beside(engine).name,
        "session.optimized_model_external_initializers_min_size_in_bytes": str(MIN_EXTERNAL_BYTES),
        "session.save_external_prepacked_constant_initializers": "1",
    }


def _take_apart(saved: Path, files: Sequence[str], store: _Store) -> None:
    """Move the weights of a saved graph into the store, and write its engines, which lie beside it then."""
    import onnx

    from dipgo_compile.backends import joined

    weights = _weights_beside(saved)
    model = onnx.load(saved, load_external_data=False)
    if weights.exists() and weights.stat().st_size:
        with (
            weights.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as data,
        ):
            for tensor in model.graph.initializer:
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    _move(tensor, data, store)
        weights.unlink()
    engines = [model] if len(files) == 1 else joined.split(model, len(files))
    for file, engine in zip(files, engines, strict=True):
        saved.with_name(file).write_bytes(engine.SerializeToString())


def _move(tensor: onnx.TensorProto, data: memoryview, store: _Store) -> None:
    """Store the tensor and its packed form, and let it refer to them there."""

    def moved(offset: str, length: str) -> str:
        with data[int(offset) : int(offset) + int(length)] as part:
            return str(store.add(part))

    entries = {entry.key: entry for entry in tensor.external_data}
    try:
        entries["offset"].value = moved(entries["offset"].value, entries["length"].value)
        entries["location"].value = WEIGHTS
        for key, entry in entries.items():
            if key.startswith(PACKED):
                name, *buffers = entry.value.split("|")
                parts = [buffer.split(";") for buffer in buffers]
                places = [";".join((moved(offset, length), length, sum_)) for offset, length, sum_ in parts]
                entry.value = "|".join((name, *places))
    except (KeyError, ValueError) as error:
        raise BackendError(
            f"ONNX Runtime {ort.__version__} saved the weight {tensor.name!r} in an unknown way: {error}"
        ) from error
