"""The bundle directory: written whole or not at all, opened only if unharmed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import toy

from dipgo_compile import bundle as bundle_module
from dipgo_compile.bundle import CACHE, open_bundle, write_bundle
from dipgo_compile.errors import BundleError

FILES = ("constants.bin", "early.onnx", "late.onnx", "mask.json", "weights.bin")


def write(path: Path, **options: Any) -> None:
    write_bundle(path, toy.plan(), toy.write_engines, toy.MASK, **options)


def test_writes_what_the_plan_lists_and_nothing_else(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert sorted(opened.plan.files) == sorted(FILES)
    found = {file.name for file in bundle.iterdir()} - {CACHE}  # opening may note there what it has hashed
    assert found == {*FILES, "plan.json"}
    assert (bundle / "mask.json").read_text() == toy.MASK


def test_constants_are_aligned_read_only_views_of_the_file(bundle: Path) -> None:
    for name, data in toy.program().constants.items():
        read = open_bundle(bundle).plan.program.constants[name]
        np.testing.assert_array_equal(read, data)
        assert not read.flags.writeable
        assert read.ctypes.data % 64 == 0


def test_a_plan_without_constants_has_an_empty_file(tmp_path: Path) -> None:
    program = toy.program()
    inputs = (*program.inputs, *program.constants)
    program = replace(program, inputs=inputs, constants={})
    plan = replace(toy.plan(), program=program, memory=toy.memory(program))
    plan = replace(plan, interface=replace(plan.interface, conditions=("text", "t0", "t2")))
    write_bundle(tmp_path / "b.dipgo", plan, toy.write_engines, toy.MASK)
    assert (tmp_path / "b.dipgo" / "constants.bin").stat().st_size == 0
    assert open_bundle(tmp_path / "b.dipgo").plan.program.constants == {}


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"{name} was altered: expected SHA-256 \w+, found"):
        open_bundle(bundle)


def test_a_flipped_bit_anywhere_in_the_plan_is_found(bundle: Path) -> None:
    text = (bundle / "plan.json").read_bytes()
    for position in range(0, len(text) - 1, 13):  # a stride coprime to the layout's regularities
        damaged = bytearray(text)
        damaged[position] ^= 1
        (bundle / "plan.json").write_bytes(damaged)
        with pytest.raises(BundleError):
            open_bundle(bundle, verify=False)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_file_is_found_even_without_hashing(bundle: Path, name: str, verify: bool) -> None:
    size = (bundle / name).stat().st_size
    os.truncate(bundle / name, size - 1)
    with pytest.raises(BundleError, match=rf"{name} was truncated: expected {size} bytes, found {size - 1}"):
        open_bundle(bundle, verify=verify)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        open_bundle(bundle)


def test_half_a_plan_is_refused(bundle: Path) -> None:
    os.truncate(bundle / "plan.json", (bundle / "plan.json").stat().st_size // 2)
    with pytest.raises(BundleError, match="not valid JSON"):
        open_bundle(bundle)


def test_a_plan_that_is_not_text_is_refused(bundle: Path) -> None:
    (bundle / "plan.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="not UTF-8"):
        open_bundle(bundle)


def test_deeply_nested_json_is_refused(bundle: Path) -> None:
    (bundle / "plan.json").write_text("[" * 100_000)
    with pytest.raises(BundleError, match="not valid JSON"):
        open_bundle(bundle)


def test_a_missing_bundle_lists_those_there_are(bundle: Path) -> None:
    with pytest.raises(BundleError, match="there is no bundle") as caught:
        open_bundle(bundle.with_name("other.dipgo"))
    assert caught.value.available == (str(bundle),)


def test_an_overlapping_memory_plan_is_refused(tmp_path: Path) -> None:
    """The verifier runs on every bundle that is opened, whoever signed it."""
    plan = toy.plan()
    places = dict(plan.memory.allocations)
    places["text"] = replace(places["text"], offset=places["s0"].offset)
    plan = replace(plan, memory=replace(plan.memory, allocations=places))
    write_bundle(tmp_path / "b.dipgo", plan, toy.write_engines, toy.MASK)
    with pytest.raises(BundleError, match="overlap"):
        open_bundle(tmp_path / "b.dipgo")


class BoomError(Exception):
    pass


@pytest.mark.parametrize("error", [BoomError, KeyboardInterrupt])
def test_a_failed_build_leaves_the_old_bundle_and_nothing_else(
    bundle: Path, error: type[BaseException]
) -> None:
    before = (bundle / "plan.json").read_bytes()

    def fail(directory: Path) -> NoReturn:
        (directory / "early.onnx").write_bytes(b"half")
        raise error

    with pytest.raises(error):
        write_bundle(bundle, toy.plan(), fail, toy.MASK)
    assert [file.name for file in bundle.parent.iterdir()] == [bundle.name]
    assert (bundle / "plan.json").read_bytes() == before
    open_bundle(bundle)


def test_a_failed_move_brings_the_old_bundle_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise PermissionError(errno.EPERM, "not today", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(BundleError, match="cannot write the bundle: not today"):
        write(bundle)
    monkeypatch.undo()
    assert [file.name for file in bundle.parent.iterdir()] == [bundle.name]
    open_bundle(bundle)


def test_what_killed_builds_left_is_removed(bundle: Path) -> None:
    """A process dies inside the build; the next build of the same bundle cleans up after it."""
    script = (
        "import os, sys; from pathlib import Path; import toy; from dipgo_compile.bundle import write_bundle;"
        "write_bundle(sys.argv[1], toy.plan(), lambda directory: os._exit(9), toy.MASK)"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(bundle_module.__file__).parents[1])])
    done = subprocess.run([sys.executable, "-c", script, bundle], env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 9
    assert len(list(bundle.parent.iterdir())) == 2
    write(bundle)
    assert [file.name for file in bundle.parent.iterdir()] == [bundle.name]


def test_a_build_killed_between_the_two_moves_loses_nothing(bundle: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    bundle.rename(bundle.with_name(f".{bundle.name}.{dead.pid}.old"))
    with pytest.raises(BundleError, match="already a bundle here"):
        write(bundle, overwrite=False)
    open_bundle(bundle)


def test_a_full_disk_is_said_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle_module, "_write_constants", full)
    with pytest.raises(BundleError, match=r"no space left .* bytes are free"):
        write(tmp_path / "b.dipgo")
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_known_before_writing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no space left .*: 1,152,921,504,606,846,976 bytes are needed"):
        write(tmp_path / "b.dipgo", needed_bytes=1 << 60)
    assert list(tmp_path.iterdir()) == []


def test_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("Precious.")
    with pytest.raises(BundleError, match="not a bundle"):
        write(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "Precious."


def test_overwriting_can_be_forbidden(bundle: Path) -> None:
    with pytest.raises(BundleError, match="already a bundle"):
        write(bundle, overwrite=False)
