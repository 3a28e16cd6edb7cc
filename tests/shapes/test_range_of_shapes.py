"""One bundle for a range of shapes: what each computes, what they share, what is refused."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dipgo_trainer.chain import reference_chain
from ranges import STEPS, Case

from dipgo_compile.backends.prepack import EngineCache
from dipgo_compile.build import BuildOptions, Exported, build
from dipgo_compile.bundle import CONSTANTS, PLAN, WEIGHTS, Bundle, open_bundle
from dipgo_compile.compare import compare
from dipgo_compile.errors import InputError
from dipgo_compile.measure.example import Example, example_inputs
from dipgo_compile.program import Array
from dipgo_compile.runtime import Runtime
from dipgo_compile.shapes import Shape

SCALE = 3.0
TOLERANCE = 1e-3  # relative L2, as everywhere in float32


def example(bundle: Bundle, shape: Shape) -> Example:
    return example_inputs(bundle.shaped(shape).plan, seed=sum((shape.images, shape.height, shape.width)))


def denoise(runtime: Runtime, given: Example) -> Array:
    return runtime.denoise(given.latents, guidance_scale=SCALE, **given.conditions)


def test_every_shape_computes_what_the_supernet_does(case: Case) -> None:
    runtime = case.runtime
    assert len(runtime.shapes) in (2, 4, 6)
    for shape in runtime.shapes:
        given = example(runtime.bundle, shape)
        conditions = {name: torch.from_numpy(value) for name, value in given.conditions.items()}
        trace = reference_chain(case.model, case.mask, torch.from_numpy(given.latents), conditions, SCALE)
        expected = trace.final.numpy()
        found = denoise(runtime, given)
        assert found.shape == (shape.images, 4, shape.height, shape.width)
        assert np.linalg.norm(found - expected) <= TOLERANCE * np.linalg.norm(expected)


def test_a_shape_computes_what_a_bundle_for_it_alone_does(unet: Case, alone: Path) -> None:
    given = example(unet.runtime.bundle, Shape(3, 8, 12))
    with Runtime.load(alone, threads=1) as runtime:
        np.testing.assert_array_equal(denoise(unet.runtime, given), denoise(runtime, given))


def test_shapes_are_compared_with_one_opened_model(dit: Case) -> None:
    """Comparing one leaves nothing behind in the model that another would see."""
    first, second = dit.runtime.shapes
    found = [compare(dit.path, model=dit.model, shape=shape, threads=1) for shape in (first, second, first)]
    assert all(comparison.passed for comparison in found)
    assert found[0] == found[2] != found[1]


def test_a_further_plan_is_a_bundle_of_its_own(unet: Case, tmp_path: Path) -> None:
    """With the same engines and weights, under the name plan.json."""
    alone = tmp_path / "alone.dipgo"
    shutil.copytree(unet.path, alone)
    (alone / "plan-1x8x12.json").rename(alone / PLAN)
    given = example(unet.runtime.bundle, Shape(1, 8, 12))
    with Runtime.load(alone, threads=1) as runtime:
        assert list(runtime.shapes) == [Shape(1, 8, 12)]
        np.testing.assert_array_equal(denoise(unet.runtime, given), denoise(runtime, given))


def test_the_largest_shape_is_the_plan_that_older_readers_know(case: Case) -> None:
    bundle = open_bundle(case.path)
    first, *others = bundle.plans
    assert first.shape == max(bundle.shapes, key=lambda shape: shape.images * shape.height * shape.width)
    assert all(other.memory.arena_bytes <= first.memory.arena_bytes for other in others)
    assert set(first.files) == {file.name for file in case.path.iterdir() if file.is_file()} - {PLAN}


def test_what_shapes_have_alike_is_stored_once(unet: Case, alone: Path) -> None:
    """Weights as exported and as packed, and constants."""
    weights, weights_alone = ((path / WEIGHTS).stat().st_size for path in (unet.path, alone))
    assert weights_alone <= weights < 1.02 * weights_alone
    opened = (unet.runtime.bundle, open_bundle(alone))
    packed, packed_alone = ((EngineCache.of(each).directory / WEIGHTS).stat().st_size for each in opened)
    assert packed_alone <= packed < 1.2 * packed_alone
    tables = [plan.program.constants for plan in unet.runtime.bundle.plans]
    everything = sum(data.nbytes for table in tables for data in table.values())
    assert (unet.path / CONSTANTS).stat().st_size < everything


def test_threads_use_different_shapes_at_once(unet: Case) -> None:
    bundle = unet.runtime.bundle
    given = [example(bundle, shape) for shape in bundle.shapes] * 3
    expected = [denoise(unet.runtime, each) for each in given]
    with Runtime.load(unet.path, threads=1) as fresh, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: denoise(fresh, each), given))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_one_arena_serves_all_shapes_of_a_thread(unet: Case) -> None:
    """A small image after a large one, and the other way round, leaves no trace."""
    shapes = list(unet.runtime.shapes)
    given = {shape: example(unet.runtime.bundle, shape) for shape in shapes}
    first = {shape: denoise(unet.runtime, given[shape]) for shape in shapes}
    for shape in reversed(shapes):
        np.testing.assert_array_equal(denoise(unet.runtime, given[shape]), first[shape])


def test_other_shapes_are_opened_when_they_are_used(unet: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend

    opened: list[Shape] = []
    original = OnnxRuntimeBackend.open

    def listen(self, bundle, options):
        opened.append(bundle.plan.shape)
        return original(self, bundle, options)

    monkeypatch.setattr(OnnxRuntimeBackend, "open", listen)
    with Runtime.load(unet.path, threads=1) as runtime:
        given = example(runtime.bundle, Shape(1, 8, 8))
        denoise(runtime, given)
        denoise(runtime, given)
    assert opened == [Shape(3, 8, 12), Shape(1, 8, 8)]
    opened.clear()
    with Runtime.load(unet.path, threads=1, shape="1x8x8") as runtime:
        denoise(runtime, given)
    assert opened == [Shape(1, 8, 8)]


def test_noise_is_drawn_for_the_shape_that_is_asked_for(unet: Case) -> None:
    runtime = unet.runtime
    given = example(runtime.bundle, Shape(1, 8, 8)).conditions
    assert runtime.denoise(seed=1, **given).shape == (1, 4, 8, 12)  # so many as there are conditions for
    small = runtime.denoise(seed=1, width=8, **given)
    assert small.shape == (1, 4, 8, 8)
    np.testing.assert_array_equal(small, runtime.denoise(seed=1, images=1, height=8, width=8, **given))
    assert runtime.session(images=1, width=8).plan.shape == Shape(1, 8, 8)


def test_a_host_may_change_the_shape_between_images(unet: Case) -> None:
    """Of a pipeline's denoiser: samples, doubled under guidance, choose the plan."""
    hosted, plans = unet.runtime.as_unet(), unet.runtime.bundle
    for shape in (Shape(1, 8, 8), Shape(3, 8, 12), Shape(1, 8, 8)):
        plan = plans.shaped(shape).plan
        given = example(plans, shape)
        sample = np.concatenate([given.latents, given.latents])
        session = unet.runtime.session(images=shape.images, height=shape.height, width=shape.width)
        for index, call in enumerate(plan.program.calls):
            found = hosted(sample, call.timestep, **given.conditions).sample
            np.testing.assert_array_equal(found, session.run_call(index, sample, given.conditions))
    with pytest.raises(InputError, match=r"no plan for samples of shape \(8, 4, 8, 8\)"):
        hosted(np.zeros((8, 4, 8, 8), np.float32), plan.program.calls[0].timestep, **given.conditions)


NOT_THERE = {
    "two images": {"images": 2},
    "a height": {"height": 16},
    "a width": {"images": 1, "width": 9},
    "latents": {"latents": np.zeros((1, 4, 8, 16), np.float32)},
    "latents of another size than is asked for": {"latents": np.zeros((1, 4, 8, 8), np.float32), "width": 12},
    "more conditions": {"encoder_hidden_states": np.zeros((8, 3, 16), np.float32)},
}


@pytest.mark.parametrize("asked", NOT_THERE)
def test_a_shape_that_is_not_there_is_refused_with_those_that_are(unet: Case, asked: str) -> None:
    given = example(unet.runtime.bundle, Shape(1, 8, 8)).conditions
    with pytest.raises(InputError) as refused:
        unet.runtime.denoise(**{"seed": 1, **given, **NOT_THERE[asked]})
    assert refused.value.available == ("1 or 3 images of 8x8 or 8x12 latents",)
    assert refused.value.what.startswith("the bundle has no plan for ")


BAD = {
    "twice the same size": {"sizes": ((8, 8), (8, 8))},
    "twice the same batch": {"batches": (2, 2)},
    "a size that the U-Net can't halve": {"sizes": ((8, 8), (0, 8))},
    "sizes and a height": {"sizes": ((8, 8),), "height": 8},
    "too many": {"batches": tuple(range(1, 80))},
}


@pytest.mark.parametrize("what", BAD)
def test_ranges_that_make_no_sense_are_refused_before_anything_is_exported(
    unet: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(Exported, "of", lambda *_: pytest.fail("exported"))
    with pytest.raises(InputError):
        build(unet.mask, model=unet.model, output=tmp_path / "m.dipgo", options=BuildOptions(**BAD[what]))


def test_a_dit_has_no_oblong_shapes(dit: Case, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="square"):
        build(
            dit.mask,
            model=dit.model,
            output=tmp_path / "m.dipgo",
            options=BuildOptions(sizes=((8, 8), (8, 12))),
        )


def test_an_exported_graph_is_of_one_shape(unet: Case, tmp_path: Path) -> None:
    options = BuildOptions(images=1, height=8, width=8)
    exported = Exported(unet.model, unet.model.geometry(2, 8, 8), None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one shape"):
        build(
            unet.mask,
            output=tmp_path / "m.dipgo",
            options=replace(options, batches=(1, 2)),
            exported=exported,
        )


def test_a_shape_of_a_bundle_goes_by_its_sizes_or_its_name(unet: Case) -> None:
    bundle = open_bundle(unet.path)
    assert bundle.shaped("1x8x8").plan.shape == bundle.shaped(Shape(1, 8, 8)).plan.shape == Shape(1, 8, 8)
    assert bundle.shaped(None) is bundle
    for shape in ("2x8x8", Shape(2, 8, 8)):
        with pytest.raises(InputError, match="no plan for 2"):
            bundle.shaped(shape)


def test_the_report_names_all_shapes(unet: Case) -> None:
    assert str(unet.runtime.shapes) == "1 or 3 images of 8x8 or 8x12 latents"
    assert len(open_bundle(unet.path).plan.program.calls) == STEPS
