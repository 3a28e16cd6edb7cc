"""The cache of engines that ONNX Runtime optimised for this processor."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from reference import make_mask

from dipgo_compile.backends import joined, onnxruntime, prepack
from dipgo_compile.backends.base import MEMORY_MODES
from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend
from dipgo_compile.backends.prepack import EngineCache
from dipgo_compile.build import build
from dipgo_compile.bundle import CACHE, WEIGHTS, Bundle, open_bundle
from dipgo_compile.errors import BackendError, InputError
from dipgo_compile.measure.example import example_inputs
from dipgo_compile.program import Array
from dipgo_compile.runtime import Runtime


@pytest.fixture(scope="module")
def pristine(plain_tiny_sd, tmp_path_factory) -> Path:
    """Three patterns of overlapping blocks and a prologue; read it, don't change it."""
    model = plain_tiny_sd.model
    mask = make_mask(model, model.blocks(), "ddim", 4, lambda calls: [[True] * 9] * calls)
    rows = (mask.keep[0], (False,) * 4 + (True,) * 5, mask.keep[0], (False,) * 8 + (True,))
    path = tmp_path_factory.mktemp("prepack") / "m.dipgo"
    return build(replace(mask, keep=rows), output=path, exported=plain_tiny_sd).path


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "m.dipgo"))


@pytest.fixture(scope="module")
def portable(pristine: Path, tmp_path_factory) -> Array:
    """What the engines give without a cache."""
    path = tmp_path_factory.mktemp("portable") / "m.dipgo"
    shutil.copytree(pristine, path, ignore=shutil.ignore_patterns(CACHE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "can_make", lambda: False)
        latents = denoise(path)
    assert not (path / CACHE).exists()
    return latents


def denoise(path: Path, **options: str | bool) -> Array:
    with Runtime.load(path, threads=1, **options) as runtime:
        inputs = example_inputs(runtime.plan)
        return runtime.denoise(inputs.latents, guidance_scale=3.0, **inputs.conditions)


def cache_of(path: Path) -> EngineCache:
    return EngineCache.of(open_bundle(path, verify=False))


def stored(graph: onnx.GraphProto, directory: Path) -> list[list[bytes]]:
    """The bytes of every weight, and of its packed forms."""
    weights = np.memmap(directory / WEIGHTS, np.uint8, mode="r")
    found = []
    for tensor in graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        packed = [value.split("|")[1:] for key, value in entries.items() if key.startswith(prepack.PACKED)]
        places = [(entries["offset"], entries["length"])] if entries else []
        places += [tuple(part.split(";")[:2]) for parts in packed for part in parts]
        found.append([weights[int(at) : int(at) + int(size)].tobytes() for at, size in places])
    return sorted(found)


def test_build_makes_it_and_it_computes_the_same(pristine: Path, portable: Array) -> None:
    assert cache_of(pristine).check(contents=True)
    np.testing.assert_allclose(denoise(pristine), portable, rtol=1e-5, atol=1e-5)


def test_every_weight_is_stored_once(pristine: Path) -> None:
    """Four engines over one file that is less than half again as large as the weights."""
    cache = cache_of(pristine)
    files = {file.name for file in cache.directory.iterdir()}
    assert {WEIGHTS, "pattern0.onnx", "pattern1.onnx", "pattern2.onnx", "prologue.onnx"} < files
    size = (cache.directory / WEIGHTS).stat().st_size
    assert size < 1.5 * (pristine / WEIGHTS).stat().st_size
    shared: dict[str, set[str]] = {}
    for name in ("pattern0.onnx", "pattern1.onnx"):
        graph = onnx.load(cache.directory / name, load_external_data=False).graph
        for tensor in graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if entries:
                assert entries["location"] == WEIGHTS
                assert int(entries["offset"]) + int(entries["length"]) <= size
                shared.setdefault(entries["offset"], set()).add(name)
    assert sum(len(names) == 2 for names in shared.values()) > 50


def test_packed_weights_are_read_where_they_lie(pristine: Path) -> None:
    """ONNX Runtime packs a weight again, into private memory, where it dislikes its place in the file."""
    cache = cache_of(pristine)
    packed = {
        (int(offset), int(size))
        for file in cache.directory.glob("*.onnx")
        for tensor in onnx.load(file, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key.startswith(prepack.PACKED)
        for offset, size, _ in (place.split(";") for place in entry.value.split("|")[1:])
    }
    with Runtime.load(pristine, threads=1):
        resident = resident_parts(cache.directory / WEIGHTS)
    assert len(packed) > 50
    assert [place for place in packed if resident.get(place[0], 0) < place[1]] == []


def resident_parts(file: Path) -> dict[int, int]:
    """How many bytes of each mapped part of a file this process has in memory, by the part's offset."""
    found: dict[int, int] = {}
    offset = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):  # ADDRESSES PERMISSIONS OFFSET DEVICE INODE PATH
            offset = int(rest[1], 16) if line.endswith(str(file)) else None
        elif offset is not None and name == "Rss:":
            found[offset] = max(found.get(offset, 0), int(rest[0]) * 1024)
    return found


def test_engines_of_the_same_weights_are_opened_once(bundle: Path) -> None:
    opened: list[str] = []

    def open_engine(name: str, *given: Any) -> None:
        opened.append(name)
        OnnxRuntimeBackend()._save(name, *given)

    cache_of(bundle).make(open_engine)
    assert opened == ["pattern0, pattern1, pattern2", "prologue"]
    assert cache_of(bundle).check(contents=True)


def test_engines_packed_together_are_what_each_is_alone(
    pristine: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined, "group", lambda models: [[file] for file in models])
    shutil.rmtree(bundle / CACHE)
    alone = denoise(bundle)
    monkeypatch.undo()
    ours, others = cache_of(pristine).directory, cache_of(bundle).directory
    for file in (f"pattern{number}.onnx" for number in range(3)):
        graphs = [onnx.load(cache / file, load_external_data=False).graph for cache in (ours, others)]
        nodes = [Counter((node.domain, node.op_type) for node in graph.node) for graph in graphs]
        assert nodes[0] == nodes[1]
        assert stored(graphs[0], ours) == stored(graphs[1], others)
    np.testing.assert_array_equal(denoise(pristine), alone)


def test_an_engine_that_is_refused_is_named(bundle: Path) -> None:
    shutil.rmtree(bundle / CACHE)
    opened, file = open_bundle(bundle, verify=False), bundle / "pattern1.onnx"
    model = onnx.load(file, load_external_data=False)
    model.graph.node[0].op_type = "Nonsense"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(BackendError, match="refuses the engine 'pattern1'") as caught:
        OnnxRuntimeBackend().prepare(opened)
    assert caught.value.where == str(file)
    assert list((bundle / CACHE).iterdir()) == []


@pytest.mark.parametrize("damage", ["byte", "truncated", "missing", "manifest"])
def test_a_damaged_cache_is_made_again(bundle: Path, portable: Array, damage: str) -> None:
    cache = cache_of(bundle)
    file = cache.directory / (WEIGHTS if damage != "manifest" else prepack.MANIFEST)
    data = bytearray(file.read_bytes())
    if damage == "byte":
        data[len(data) // 2] ^= 1
    file.write_bytes(data if damage == "byte" else data[:-1] if damage != "manifest" else b'{"a": 1}')
    if damage == "missing":
        (cache.directory / "pattern0.onnx").unlink()
    assert not cache.check(contents=True)
    np.testing.assert_allclose(denoise(bundle), portable, rtol=1e-5, atol=1e-5)
    assert cache.check(contents=True)
    assert [path.name for path in cache.directory.parent.glob(".*")] == []


def test_another_processor_or_other_engines_have_another_cache(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_bundle(bundle)
    here = EngineCache.of(opened).directory
    monkeypatch.setattr(prepack, "_processor", lambda: "an abacus")
    there = EngineCache.of(opened).directory
    monkeypatch.undo()
    record = replace(opened.plan.files["pattern0.onnx"], sha256="0" * 64)
    plan = replace(opened.plan, files={**opened.plan.files, "pattern0.onnx": record})
    assert len({here, there, EngineCache.of(Bundle(bundle, plan)).directory}) == 3
    assert here.is_dir() and not there.exists()


def test_where_nothing_can_be_written_the_portable_engines_are_used(bundle: Path, portable: Array) -> None:
    shutil.rmtree(bundle / CACHE)
    (bundle / CACHE).write_text("in the way")
    with pytest.warns(RuntimeWarning, match="engines are opened slowly"):
        found = denoise(bundle)
    np.testing.assert_allclose(found, portable, rtol=1e-5, atol=1e-5)


def test_an_interrupted_packing_leaves_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(bundle / CACHE)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx, "load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Runtime.load(bundle)
    assert list((bundle / CACHE).iterdir()) == []


@pytest.mark.parametrize("memory", MEMORY_MODES)
def test_memory_modes_compute_the_same(pristine: Path, portable: Array, memory: str) -> None:
    np.testing.assert_allclose(denoise(pristine, memory=memory), portable, rtol=1e-5, atol=1e-5)


def test_an_unknown_memory_mode_is_refused(pristine: Path) -> None:
    with pytest.raises(InputError, match="no memory mode 'tiny'") as caught:
        Runtime.load(pristine, memory="tiny")
    assert caught.value.available == MEMORY_MODES


def test_the_manifest_records_every_file(pristine: Path) -> None:
    directory = cache_of(pristine).directory
    manifest = json.loads((directory / prepack.MANIFEST).read_text())
    assert set(manifest) == {f.name for f in directory.iterdir()} - {prepack.MANIFEST, "verified.json"}
