"""The public Runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy

import dipgo_compile
from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend
from dipgo_compile.bundle import CACHE, write_bundle
from dipgo_compile.errors import BackendError, BundleError, InputError
from dipgo_compile.program import TensorSpec
from dipgo_compile.runtime import Runtime

TOLERANCE = 1e-5  # as in test_executor


def arguments(**changes: Any) -> dict[str, Any]:
    image = toy.image()
    given = {
        "latents": image["latents"],
        "draws": [image["draw"]],
        "text": image["text"],
        "guidance_scale": 3.0,
    }
    return {**given, **changes}


def test_denoises(runtime: Runtime) -> None:
    result = runtime.denoise(**arguments())
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, toy.expected(**toy.image(), scale=3.0), atol=TOLERANCE, rtol=0)


def test_guidance_is_seven_and_a_half_unless_given(runtime: Runtime) -> None:
    np.testing.assert_array_equal(
        runtime.denoise(**arguments(guidance_scale=None)), runtime.denoise(**arguments(guidance_scale=7.5))
    )


def test_a_seed_stands_for_all_noise(runtime: Runtime) -> None:
    text = toy.image()["text"]
    first, again = (runtime.denoise(seed=3, text=text) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(runtime.denoise(seed=4, text=text) - first).max() > 0.1
    assert np.abs(runtime.denoise(text=text) - first).max() > 0.1


def test_takes_torch_tensors(runtime: Runtime) -> None:
    image = toy.image()
    result = runtime.denoise(
        **arguments(latents=torch.from_numpy(image["latents"]), text=torch.from_numpy(image["text"]))
    )
    np.testing.assert_array_equal(result, runtime.denoise(**arguments()))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "shape": ({"latents": np.zeros((1, 2, 4, 5), np.float32)}, r"latents has shape \(1, 2, 4, 5\)"),
    "float64": ({"latents": np.zeros(toy.LATENTS)}, "latents is float64, the plan takes float32"),
    "float16": ({"text": np.zeros(toy.TEXT, np.float16)}, "text is float16"),
    "bfloat16": ({"text": torch.zeros(toy.TEXT, dtype=torch.bfloat16)}, "text is not an array"),
    "gradient": ({"text": torch.zeros(toy.TEXT, requires_grad=True)}, "text is not an array"),
    "a name too many": ({"mood": 1}, "not those of the plan: text, mood"),
    "draws": ({"draws": []}, "takes 1 noise draws, 0 were given"),
    "ragged": ({"latents": [[1.0], [1.0, 2.0]]}, "latents is not an array"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs_are_named(runtime: Runtime, case: str) -> None:
    changes, message = WRONG[case]
    with pytest.raises(InputError, match=message) as caught:
        runtime.denoise(**arguments(**changes))
    assert "to mend it" in str(caught.value) or case == "draws"


def test_a_missing_condition_is_named(runtime: Runtime) -> None:
    with pytest.raises(InputError, match="not those of the plan: none") as caught:
        runtime.denoise(seed=0)
    assert caught.value.available == ("text",)


def test_threads_share_a_runtime(runtime: Runtime) -> None:
    seeds = range(24)
    serial = [runtime.denoise(**arguments(**shared(seed))) for seed in seeds]
    with ThreadPoolExecutor(2) as pool:
        parallel = list(pool.map(lambda seed: runtime.denoise(**arguments(**shared(seed))), seeds))
    for one, other in zip(serial, parallel, strict=True):
        np.testing.assert_array_equal(one, other)


def shared(seed: int) -> dict[str, Any]:
    image = toy.image(seed)
    return {"latents": image["latents"], "draws": [image["draw"]], "text": image["text"]}


def test_closing_ends_it(pristine: Path) -> None:
    with Runtime.load(pristine, threads=1) as runtime:
        session = runtime.session()
    runtime.close()
    with pytest.raises(InputError, match="closed"):
        runtime.denoise(**arguments())
    image = toy.image()
    session.denoise(image["latents"], {"text": image["text"]}, draws=[image["draw"]])


def test_a_provider_that_is_not_there_is_named(pristine: Path) -> None:
    with pytest.raises(BackendError, match="no CUDAExecutionProvider") as caught:
        Runtime.load(pristine, provider="cuda")
    assert "CPUExecutionProvider" in (caught.value.available or ())
    assert "dipgo-compile[cuda]" in str(caught.value)
    with pytest.raises(BackendError, match="unknown execution provider 'abacus'") as caught:
        OnnxRuntimeBackend("abacus")
    assert caught.value.available == ("cpu", "cuda")


def test_an_engine_that_is_no_model_is_named(bundle: Path) -> None:
    shutil.rmtree(bundle / CACHE, ignore_errors=True)  # engines opened before are in there
    size = (bundle / "early.onnx").stat().st_size
    (bundle / "early.onnx").write_bytes(b"\x07" * size)
    with pytest.raises(BundleError, match=r"this is not an ONNX model: it has a field of an unknown type"):
        Runtime.load(bundle, verify=False)
    with pytest.raises(BundleError, match=r"early\.onnx was altered"):
        Runtime.load(bundle)


def test_a_warm_load_imports_neither_torch_nor_onnx(pristine: Path) -> None:
    """A machine that only runs bundles needs numpy and onnxruntime."""
    script = """if True:
        import sys, numpy as np
        import dipgo_compile
        assert "onnxruntime" not in sys.modules
        with dipgo_compile.Runtime.load(sys.argv[1], threads=1) as runtime:
            runtime.denoise(seed=0, text=np.zeros((2, 3, 5), np.float32))
            denoiser = runtime.as_unet()
            sample = np.zeros((2, 2, 4, 4), np.float32)
            denoiser(sample, 981, text=np.zeros((2, 3, 5), np.float32))
        heavy = {"torch", "onnx", "diffusers", "jsonschema", "click"} & set(sys.modules)
        assert not heavy, heavy
    """
    root = Path(dipgo_compile.__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", script, pristine], check=True, env={**os.environ, "PYTHONPATH": str(root)}
    )


def test_an_engine_that_does_not_fit_its_values_is_refused(tmp_path: Path) -> None:
    """Buffers are checked against the model: no plan can make an engine write beyond them."""
    plan = toy.plan()
    specs = {**plan.program.specs, "h0": TensorSpec("float32", (1, 2, 4, 4))}
    program = replace(plan.program, specs=specs)
    plan = replace(plan, program=program, memory=toy.memory(program))
    write_bundle(tmp_path / "b.dipgo", plan, toy.write_engines, toy.MASK)
    runtime = Runtime.load(tmp_path / "b.dipgo", threads=1)
    with pytest.raises(
        BackendError, match=r"'h' of the engine 'early' is float32\(2, 2, 4, 4\), not float32"
    ):
        runtime.denoise(**arguments())


def test_engines_with_other_tensors_than_the_plan_are_refused(tmp_path: Path) -> None:
    plan = toy.plan()
    early, late = plan.program.engines
    early = replace(early, outputs=("h", "unheard"))
    plan = replace(plan, program=replace(plan.program, engines=(early, late)))
    write_bundle(tmp_path / "b.dipgo", plan, toy.write_engines, toy.MASK)
    with pytest.raises(BackendError, match="'early' does not have the outputs of the plan") as caught:
        Runtime.load(tmp_path / "b.dipgo", threads=1)
    assert caught.value.available == ("h", "spare")
