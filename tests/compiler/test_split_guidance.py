"""Split guidance: the halves of a guided batch one after the other, by the same engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from toy_denoiser import GUIDANCE, SPLIT, toy_graph, toy_mask, toy_model, toy_schedule

from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend
from dipgo_compile.build import BuildOptions, Exported, check, compile_plan, guidance_of, write
from dipgo_compile.bundle import open_bundle
from dipgo_compile.errors import InputError
from dipgo_compile.executor import Session
from dipgo_compile.graphs.float16 import in_precision
from dipgo_compile.mask import Mask
from dipgo_compile.measure.comparison import TOLERANCES
from dipgo_compile.measure.example import Example, example_inputs
from dipgo_compile.models.base import GRANULARITIES
from dipgo_compile.passes.fuse import STRATEGIES
from dipgo_compile.passes.unroll import unroll
from dipgo_compile.pipeline import REQUIRED, compile_program, default_passes
from dipgo_compile.plan import Plan
from dipgo_compile.program import PROLOGUE, Coefficient, Program
from dipgo_compile.rewrites import apply, default_rewrites
from dipgo_compile.running.residence import device_sums
from dipgo_compile.running.unguided import unguided
from dipgo_compile.runtime import Runtime
from dipgo_compile.schedules.probe import probe
from dipgo_compile.text import program_text
from tests.compiler.golden import assert_golden
from tests.compiler.reference import BETAS, SCHEDULERS, assert_parity, random_mask
from tests.families.tiny import make

HALVES = ("uncond", "cond")
SCALE = 3.0
SAME = (
    1e-4  # absolute, on latents near 1: float32 engines for one sample add up in another order than for two
)
TOY_MASK = toy_mask("11", "00", "01", "11")
CASES = [("output", "sd15", granularity, fuse) for granularity in GRANULARITIES for fuse in STRATEGIES]
CASES += [("residual", "dit", granularity, fuse) for granularity in GRANULARITIES for fuse in STRATEGIES]


def options(split: bool = True, **changes: object) -> BuildOptions:
    return replace(BuildOptions(split_guidance=split), **changes)  # type: ignore[arg-type]


def exported(name: str, options: BuildOptions) -> Exported:
    """As ``build`` compiles it."""
    given = Exported.of(make(name), options)
    inputs = given.model.inputs(given.geometry)
    apply(given.onnx, default_rewrites(options.backend, provider=options.provider))
    in_precision(given.onnx, options.precision, inputs)
    return given


@pytest.fixture(scope="module")
def halves() -> dict[str, Exported]:
    """Denoisers for one sample: half of one guided image, or one without guidance."""
    return {name: exported(name, options()) for name in ("sd15", "dit")}


@pytest.fixture(scope="module")
def whole() -> Exported:
    return exported("sd15", options(split=False))


def toy_program(mask: Mask = TOY_MASK, passes: int | None = None) -> Program:
    model = toy_model(batch=1)
    graph = toy_graph(model, batch=1)
    program = unroll(graph, toy_schedule(mask.calls), SPLIT)
    for step in default_passes(model, graph, mask)[:passes]:
        program = step(program).program
    return program


def test_unroll() -> None:
    assert_golden("split_unroll", program_text(toy_program(toy_mask("11", "11"), passes=0)))


def test_all_passes() -> None:
    assert_golden("split_8_fuse", program_text(toy_program()))


@pytest.mark.parametrize("seed", range(len(CASES)), ids=map("-".join, CASES))
def test_random_mask(seed: int, halves: dict[str, Exported], tmp_path: Path) -> None:
    """Also DiT: the conditional half comes first, and its condition is an integer."""
    reuse, name, granularity, fuse = CASES[seed]
    scheduler = ("ddim", "plms")[(seed + seed // 4) % 2]
    mask = random_mask(halves[name].model, granularity, scheduler, reuse, seed)
    assert_parity(halves[name], mask, options(fuse=fuse), tmp_path / "m.dipgo", seed)


@pytest.mark.parametrize(("name", "reuse"), [("sd15", "output"), ("dit", "residual")])
def test_random_mask_in_openvino(name: str, reuse: str, tmp_path: Path) -> None:
    """fp32, at the tolerance of ONNX Runtime."""
    pytest.importorskip("openvino")
    chosen = options(backend="openvino")
    given = exported(name, chosen)
    mask = random_mask(given.model, "block", "plms", reuse, 0)
    assert_parity(given, mask, chosen, tmp_path / "m.dipgo", 0)


@pytest.mark.parametrize(("name", "reuse"), [("sd15", "output"), ("dit", "residual")])
def test_random_mask_in_float16(name: str, reuse: str, tmp_path: Path) -> None:
    """As on a GPU, but the device is this CPU: each half has values of its own there, and residuals of its
    own, which the device sums.
    """
    chosen = options(provider="cuda", precision="fp16")
    given, accepted = exported(name, chosen), TOLERANCES["fp16"]
    mask = random_mask(given.model, "block", "plms", reuse, 0)
    path, backend = tmp_path / "m.dipgo", OnnxRuntimeBackend(device="cpu")
    assert_parity(given, mask, chosen, path, 0, accepted.noise_pred, accepted.latents, backend)
    program = open_bundle(path).plan.program
    assert {run.half for run in program.runs()} == {*HALVES}
    assert bool(device_sums(program)) == (reuse == "residual")


@pytest.mark.parametrize(
    "disabled",
    [step.name for step in default_passes(toy_model(), toy_graph(), TOY_MASK) if step.name not in REQUIRED],
)
def test_every_pass_can_be_left_out(disabled: str, halves: dict[str, Exported], tmp_path: Path) -> None:
    mask = random_mask(halves["dit"].model, "block", "plms", "residual", 3)
    assert_parity(halves["dit"], mask, options(disabled=(disabled,)), tmp_path / "m.dipgo", 3)


def test_every_kind_of_condition_of_several_images(tmp_path: Path) -> None:
    """PixArt's text, its mask and the image's size, of two images."""
    given = exported("pixart-alpha", options(images=2))
    mask = random_mask(given.model, "block", "ddim", "output", 1)
    assert_parity(given, mask, options(images=2), tmp_path / "m.dipgo", 0)
    plan = open_bundle(tmp_path / "m.dipgo").plan
    assert len(plan.interface.conditions) == 4
    for name in plan.interface.conditions:
        assert plan.condition(name).shape[0] == 4
        assert [plan.program.specs[half].shape[0] for half in plan.interface.inputs_of(name)] == [2, 2]
    prologue = [(run.engine, run.half) for run in plan.program.runs() if run.call == PROLOGUE]
    assert prologue == [(engine, half) for engine in ("prologue", "modulation") for half in HALVES]


@dataclass(frozen=True)
class Pair:
    """One mask of one model, compiled with its guidance split and whole, and without guidance."""

    mask: Mask
    split: Path
    whole: Path
    unguided: Path


@pytest.fixture(scope="module", params=["ddim", "plms"])
def pair(
    request: pytest.FixtureRequest,
    halves: dict[str, Exported],
    whole: Exported,
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    directory = tmp_path_factory.mktemp("pair")
    mask = random_mask(whole.model, "block", request.param, "output", 2)

    def written(name: str, given: Exported, options: BuildOptions) -> Path:
        schedule = check(mask, given.model)
        plan = compile_plan(given.model, given.geometry, given.onnx, mask, schedule, options)
        write(directory / name, plan, given.onnx, mask)
        return directory / name

    return Pair(
        mask,
        written("split.dipgo", halves["sd15"], options()),
        written("whole.dipgo", whole, options(split=False)),
        written("unguided.dipgo", halves["sd15"], options(split=False, guidance=False)),
    )


def inputs(path: Path) -> Example:
    return example_inputs(open_bundle(path).plan)


def denoised(path: Path, given: Example, scale: float | None) -> np.ndarray:
    with Runtime.load(path, threads=1) as runtime:
        return runtime.denoise(given.latents, guidance_scale=scale, **given.conditions)


def test_a_split_plan_computes_what_the_whole_one_does(pair: Pair) -> None:
    given = inputs(pair.split)
    assert {name: array.shape for name, array in given.conditions.items()} == {
        name: array.shape for name, array in inputs(pair.whole).conditions.items()
    }
    results = [denoised(path, given, SCALE) for path in (pair.split, pair.whole)]
    np.testing.assert_allclose(*results, rtol=0, atol=SAME)
    assert np.abs(denoised(pair.split, given, 1.0) - results[0]).max() > 100 * SAME


def test_halves_share_their_engines_and_not_their_values(pair: Pair) -> None:
    split, whole = (open_bundle(path).plan for path in (pair.split, pair.whole))
    assert [engine.blocks for engine in split.program.engines] == [
        engine.blocks for engine in whole.program.engines
    ]
    runs = {half: [run for run in split.program.runs() if run.half == half] for half in HALVES}
    places = [[(run.call, run.engine) for run in runs[half]] for half in HALVES]
    assert places[0] == places[1] == [(run.call, run.engine) for run in whole.program.runs()]
    computed = [{name for run in runs[half] for name in run.outputs if name} for half in HALVES]
    read = [{name for run in runs[half] for name in run.inputs} for half in HALVES]
    assert computed[0].isdisjoint(read[1]) and computed[1].isdisjoint(read[0])


def test_the_arena_is_smaller(pair: Pair) -> None:
    split, whole = (open_bundle(path).plan.memory for path in (pair.split, pair.whole))
    assert split.arena_bytes < whole.arena_bytes


class Counting:
    """An engine session that counts its runs."""

    def __init__(self, engine: str, session: object, runs: Counter[str]) -> None:
        self._engine, self._session, self._runs = engine, session, runs

    def bind(self, inputs, outputs):
        step = self._session.bind(inputs, outputs)

        def counted() -> None:
            self._runs[self._engine] += 1
            step()

        return counted


@pytest.fixture
def counted(pair: Pair) -> Iterator[tuple[Session, Counter[str]]]:
    runs: Counter[str] = Counter()
    with Runtime.load(pair.split, threads=1) as runtime:
        opened = runtime._opened[runtime.plan.shape].engines()
        engines = {name: Counting(name, engine, runs) for name, engine in opened.items()}
        yield Session(runtime.plan, engines), runs


def test_scale_one_computes_half_of_it(pair: Pair, counted: tuple[Session, Counter[str]]) -> None:
    session, runs = counted
    given = inputs(pair.split)
    calls: dict[float, list[int]] = {}
    made: dict[float, Counter[str]] = {}
    results = {}
    for scale in (SCALE, 1.0, SCALE):  # the second image of a scale is as the first
        runs.clear()
        calls[scale] = []
        result = session.denoise(
            given.latents, given.conditions, guidance_scale=scale, callback=calls[scale].append
        )
        np.testing.assert_array_equal(result, results.setdefault(scale, result))
        made[scale] = Counter(runs)
    assert made[SCALE] == {engine: 2 * count for engine, count in made[1.0].items()}
    assert calls[1.0] == calls[SCALE] == list(session.plan.program.calls_with_runs())
    _, cond = np.split(given.conditions["encoder_hidden_states"], 2)
    alone = replace(given, conditions={"encoder_hidden_states": cond})
    np.testing.assert_array_equal(results[1.0], denoised(pair.unguided, alone, None))


def test_what_is_not_computed_does_no_harm(pair: Pair) -> None:
    given = inputs(pair.split)
    uncond, cond = np.split(given.conditions["encoder_hidden_states"], 2)
    broken = {"encoder_hidden_states": np.concatenate([np.full_like(uncond, np.nan), cond])}
    session = Runtime.load(pair.split, threads=1).session()
    assert np.isnan(session.denoise(given.latents, broken, guidance_scale=SCALE)).any()
    np.testing.assert_array_equal(  # whatever the image before left in the arena
        session.denoise(given.latents, broken, guidance_scale=1.0), denoised(pair.split, given, 1.0)
    )


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_scale_one_leaves_the_conditional_terms(scheduler: str, split: bool) -> None:
    """However many predictions the scheduler combines, the unconditional ones have a coefficient of 0."""
    class_name, config = SCHEDULERS[scheduler]
    schedule = probe(class_name, {**BETAS, **config}, 7)
    mask = toy_mask(*("11" if call % 3 else "01" for call in range(1, 1 + len(schedule.steps))))
    mask = replace(mask, keep=((True, True), *mask.keep[1:]))
    model = toy_model(1 if split else 2)
    graph = toy_graph(model, 1 if split else 2)
    program, _ = compile_program(model, graph, mask, schedule, SPLIT if split else GUIDANCE)
    guided = [i for i in program.instructions if any(t.coefficient.guidance for t in getattr(i, "terms", ()))]
    assert guided
    for whole, left in zip(program.instructions, unguided(program), strict=True):
        if whole in guided:
            unconditional = [
                term for term in whole.terms if term.coefficient.constant and term.coefficient.guidance
            ]
            assert unconditional
            assert set(whole.terms) - set(left.terms) == set(unconditional)
        else:
            dropped_run = split and getattr(whole, "half", None) == "uncond"
            assert left == (None if dropped_run else whole)


def test_nothing_is_left_out_without_guidance() -> None:
    model = toy_model()
    program, _ = compile_program(model, toy_graph(model), TOY_MASK, toy_schedule(TOY_MASK.calls), None)
    assert unguided(program) == program.instructions


def test_a_combination_keeps_a_term() -> None:
    """Should all of them go."""
    program = toy_program()
    last = replace(program.instructions[-1], terms=program.instructions[-1].terms[:1])
    zero = replace(last, terms=(replace(last.terms[0], coefficient=Coefficient(1.0, -1.0)),))
    program = program.with_instructions((*program.instructions[:-1], zero))
    assert unguided(program)[-1] == zero


def test_a_host_sends_one_sample_twice(pair: Pair) -> None:
    plan, given = open_bundle(pair.split).plan, inputs(pair.split)
    sample = np.concatenate([given.latents] * 2)
    with Runtime.load(pair.split, threads=1) as runtime:
        session = runtime.session()
        assert session.run_call(0, sample, given.conditions).shape == (2, *given.latents.shape[1:])
        sample[1, 0, 0, 0] += 1
        with pytest.raises(InputError, match="the halves of sample differ") as error:
            session.run_call(0, sample, given.conditions)
        assert "--split-guidance" in str(error.value)
        with pytest.raises(InputError, match=r"shape \(1, .* compiled for \(2, "):
            session.run_call(0, given.latents, given.conditions)
        with pytest.raises(InputError, match="batch of 1, the plan was compiled for 2"):
            runtime.as_unet()(given.latents, plan.program.calls[0].timestep, **given.conditions)


def test_guidance_has_to_be_there_to_be_split() -> None:
    with pytest.raises(InputError, match="no guidance to split"):
        guidance_of(make("sd15"), options(guidance=False))
    with pytest.raises(InputError, match="no guidance to split"):  # distilled: it reads the scale
        guidance_of(make("lcm"), options())


def test_a_bundle_says_so(pair: Pair) -> None:
    """And a reader that takes one input for a condition, or one prediction for a call, finds neither."""
    plan: Plan = open_bundle(pair.split).plan
    assert plan.interface.split and plan.interface.conditions == ("encoder_hidden_states",)
    assert "encoder_hidden_states" not in plan.program.inputs
    assert all(len(call.noise_preds) == 2 for call in plan.program.calls)
    assert plan.macs == open_bundle(pair.whole).plan.macs
