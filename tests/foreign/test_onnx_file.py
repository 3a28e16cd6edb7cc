"""What a file is taken for, and one clear message where it can't be told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import EulerDiscreteScheduler
from onnx import TensorProto, helper
from onnx_denoiser import File, make_mask
from small import value, write, write_sum

from dipgo_compile.build import BuildOptions, build, check, guidance_of
from dipgo_compile.errors import DipgoError, GraphError, InputError, MaskError, ModelError, ScheduleError
from dipgo_compile.mask import Mask
from dipgo_compile.models import Geometry
from dipgo_compile.models.onnx_file import OnnxModel, open_onnx
from dipgo_compile.models.opening import open_masked, open_model
from dipgo_compile.models.reading import Reading
from dipgo_compile.models.source import load


def opened(path: str, **told: Any) -> OnnxModel:
    return open_onnx(path, Reading(**told))


def refused(kind: type[DipgoError], path: str, **told: Any) -> str:
    with pytest.raises(kind) as error:
        opened(path, **told).geometry()
    return str(error.value)


def test_guesses_are_explained(today: File) -> None:
    model = open_onnx(str(today.path))
    assert model.notes == (
        "'x' is taken for the sample: nothing else can be",
        "'t' is taken for the timestep by its name; --timestep if it is not",
        "'t' reads the scheduler's timestep; --timestep-kind sigma if it does not",
        "'eps' is taken for the noise prediction: nothing else can be",
    )
    assert model.reading == Reading("x", "t", "timestep", "eps")
    assert not open_onnx(str(today.path), model.reading).notes


def test_inputs_in_the_order_of_the_file(today: File) -> None:
    specs = today.open().inputs(Geometry(batch=6, height=8, width=8, tokens=0))
    assert [(s.name, s.role, s.spec.dtype, s.spec.shape) for s in specs] == [
        ("x", "sample", "float32", (6, 4, 8, 8)),
        ("t", "timestep", "int64", (6,)),
        ("text", "condition", "float32", (6, 5, 12)),
        ("strength", "condition", "float32", (6,)),
    ]


def test_a_sigma_is_known_by_its_name(sigma: File) -> None:
    model = sigma.open()
    assert model.timestep_kind == "sigma"
    assert sigma.open(timestep_kind="timestep").timestep_kind == "timestep"


def test_a_name_that_is_not_there(today: File) -> None:
    message = refused(ModelError, str(today.path), sample="latents")
    assert "no tensor 'latents' to be the sample" in message
    assert "available: x: float (batch, 4, 8, 8), t: int64 (batch), text" in message


def test_a_name_of_something_else(today: File) -> None:
    assert "text: float (batch, 5, 12) can't be the timestep" in refused(
        ModelError, str(today.path), timestep="text"
    )


def test_several_samples_are_possible(tmp_path: Path) -> None:
    """Neither of the images is called as samples are."""
    images = [value(name, (1, 4, 8, 8)) for name in ("left", "right")]
    nodes = [
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("Add", ["sum", "t"], ["eps"]),
    ]
    path = write(tmp_path / "a.onnx", [*images, value("t", ())], [value("eps", None)], nodes)
    message = refused(ModelError, path)
    assert "doesn't say which tensor is the sample" in message
    assert "available: left: float (1, 4, 8, 8), right: float (1, 4, 8, 8)" in message
    assert "--sample NAME" in message
    assert opened(path, sample="right").roles.sample == "right"


def test_no_timestep(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["eps"])]
    path = write(tmp_path / "a.onnx", [value("x", (1, 4, 8, 8))], [value("eps", None)], nodes)
    assert "no tensor of the file can be the timestep" in refused(ModelError, path)


def test_unknown_dimensions_are_listed_at_once(torchscript: File) -> None:
    message = refused(InputError, str(torchscript.path))
    assert "axis 1 of 'text' (length) is free in the file" in message
    assert "--tokens N" in message
    message = refused(InputError, str(torchscript.path), dims={"tokens": 5})
    assert "the height of 'x' is free" in message
    assert "--height N" in message


def test_dimensions_by_their_names_in_the_file(torchscript: File) -> None:
    by_name = opened(str(torchscript.path), dims={"rows": 8, "columns": 16, "length": 5})
    by_place = opened(str(torchscript.path), dims={"x.2": 8, "x.3": 16, "text.1": 5})
    by_size = opened(str(torchscript.path), dims={"height": 8, "width": 16, "tokens": 5})
    assert by_name.geometry() == by_place.geometry() == by_size.geometry() == Geometry(1, 8, 16, 5)
    assert by_name.reading == by_size.reading
    assert by_size.geometry(2, 32, 8) == Geometry(2, 32, 8, 5)  # a build may say otherwise


def test_a_dimension_that_is_not_there(torchscript: File) -> None:
    message = refused(InputError, str(torchscript.path), dims={"tokens": 5, "frames": 3})
    assert "no free dimension 'frames'" in message
    assert "rows" not in message or "height" in message


def test_further_dimensions(tmp_path: Path) -> None:
    """A free dimension that no size stands for is told by its name, or by its place where it has none."""
    extra = value("mood", ("n", "moods"))
    path = write_sum(tmp_path / "a.onnx", value("x", (None, 4, 8, 8)), extra)
    model = opened(path)  # nothing reads the moods
    assert "the input 'mood' is left out: 'eps' doesn't depend on it" in model.notes
    assert model.shapes == {"x": ("batch", 4, 8, 8), "t": ("batch",)}
    path = write_sum(tmp_path / "b.onnx", value("x", (1, None, 8, 8)))
    assert "axis 1 of 'x' is free" in (message := refused(InputError, path))
    assert "--dim x.1=N" in message
    assert opened(path, dims={"x.1": 4}).geometry() == Geometry(1, 8, 8, 0)


def test_a_fixed_size_can_not_be_changed(sigma: File) -> None:
    with pytest.raises(InputError, match="height of 'x' is 8 in the file, not 16"):
        sigma.open().geometry(height=16)
    with pytest.raises(InputError, match="batch of 'x' is 2 in the file, not 4") as error:
        sigma.open().geometry(batch=4)
    assert "--batch 1" in str(error.value)
    with pytest.raises(InputError, match="not 1") as error:
        open_onnx(str(sigma.path)).geometry(batch=1)
    assert "--guidance-order if two samples are one image" in str(error.value)


def test_half_precision_is_refused(tmp_path: Path) -> None:
    path = write_sum(tmp_path / "a.onnx", value("x", (1, 4, 8, 8), TensorProto.FLOAT16))
    assert "x: float16 (1, 4, 8, 8) is not float32" in refused(ModelError, path)


def test_an_output_of_another_shape(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "t"], ["sum"]),
        helper.make_node("AveragePool", ["sum"], ["eps"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    inputs = [value("x", (1, 4, 8, 8)), value("t", ())]
    path = write(tmp_path / "a.onnx", inputs, [value("eps", (1, 4, 4, 4))], nodes)
    model = opened(path)
    with pytest.raises(ModelError, match=r"not of the sample's shape \(1, 4, 8, 8\)") as error:
        model.graph(model.geometry())
    assert "eps: float (1, 4, 4, 4)" in str(error.value)


def test_names_that_mean_something_else_here(tmp_path: Path) -> None:
    """``latents``, ``noise`` and ``seed`` are the program's own and ``Runtime.denoise``'s."""
    nodes = [
        helper.make_node("Add", ["latents", "t"], ["draw"], "/a.0/Add"),
        helper.make_node("Mul", ["draw", "seed"], ["noise"], "/a.1/Mul"),
    ]
    inputs = [value("latents", ("n", 4, 8, 8)), value("t", ()), value("seed", (1,))]
    path = write(tmp_path / "a.onnx", inputs, [value("noise", ("n", 4, 8, 8))], nodes)
    model = opened(path)
    assert "'latents' is called 'latents_' from here on: its name is taken" in model.notes
    mask = make_mask(model, ("11", "01"), "ddim", ("a.0", "a.1"))
    plan = build(mask, model=model, output=tmp_path / "m.dipgo").plan
    assert (plan.interface.sample, plan.interface.conditions) == ("latents_", ("seed_",))


def test_guidance_only_in_a_known_order(torchscript: File, today: File) -> None:
    assert guidance_of(torchscript.open(), BuildOptions()) is None
    with pytest.raises(InputError, match="order of the guided batch's halves is unknown") as error:
        guidance_of(torchscript.open(), BuildOptions(guidance=True))
    assert "--guidance-order uncond,cond" in str(error.value)
    guided = guidance_of(today.open(), BuildOptions())
    assert guided is not None and guided.order == ("cond", "uncond")
    assert guidance_of(today.open(), BuildOptions(guidance=False)) is None


def test_files_without_modules_want_cuts(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "t"], ["eps"], "Add_0")]
    inputs = [value("x", (1, 4, 8, 8)), value("t", ())]
    model = opened(write(tmp_path / "a.onnx", inputs, [value("eps", None)], nodes))
    with pytest.raises(GraphError, match="names no modules") as error:
        model.blocks()
    assert "--cuts" in str(error.value)
    with pytest.raises(ModelError, match="unknown granularity 'brick'"):
        model.blocks("brick")


def test_fractional_timesteps_for_an_input_of_integers(today: File) -> None:
    model = today.open()
    mask = make_mask(model, ("111",) * 3, "euler")
    with pytest.raises(ScheduleError, match="reads integers, and EulerDiscreteScheduler gives it 499"):
        check(mask, model)


def test_a_scheduler_without_sigmas(sigma: File) -> None:
    model = sigma.open()
    with pytest.raises(ScheduleError, match="DDIMScheduler has none for each of its 3 calls"):
        check(make_mask(model, ("111",) * 3, "ddim"), model)


def test_sigmas_are_the_schedulers(sigma: File) -> None:
    """Heun's second call of a step has the next step's sigma; what the denoiser reads is what scales its
    sample: 1 / sqrt(sigma^2 + 1).
    """
    model = sigma.open()
    for scheduler in ("euler", "heun"):
        schedule = check(make_mask(model, ("111",) * 5, scheduler), model)
        scales = [(step.timestep**2 + 1) ** -0.5 for step in schedule.steps]
        assert scales == pytest.approx([step.input_scale for step in schedule.steps], rel=1e-5)


def test_a_scheduler_beside_the_file(torchscript: File, tmp_path: Path) -> None:
    """As pipelines exported to ONNX keep it; another may be named."""
    (tmp_path / "unet").mkdir()
    path = tmp_path / "unet" / "model.onnx"
    path.write_bytes(torchscript.path.read_bytes())
    assert open_onnx(str(path), torchscript.reading).scheduler_class == ""
    EulerDiscreteScheduler(beta_end=0.5).save_pretrained(tmp_path / "scheduler")
    found = open_onnx(str(path), torchscript.reading)
    assert (found.scheduler_class, found.scheduler_config["beta_end"]) == ("EulerDiscreteScheduler", 0.5)
    told = tmp_path / "told.json"
    told.write_text(json.dumps({"_class_name": "DDIMScheduler", "beta_end": 0.1}))
    assert open_onnx(str(path), torchscript.reading, told).scheduler_class == "DDIMScheduler"
    told.write_text("[]")
    with pytest.raises(ModelError, match="not a diffusers scheduler's configuration"):
        open_onnx(str(path), torchscript.reading, told)


def test_a_mask_tells_how_to_read_its_file(torchscript: File, tmp_path: Path) -> None:
    mask = make_mask(torchscript.open(), ("111", "000"), "ddim")
    mask.save(tmp_path / "mask.json")
    loaded = Mask.load(tmp_path / "mask.json")
    assert loaded == mask
    assert loaded.model.onnx["dims"] == {"height": 8, "width": 8, "tokens": 5}
    model = open_masked(loaded, reading=Reading(dims={"width": 16}))
    assert model.geometry() == Geometry(1, 8, 16, 5)
    plan = build(loaded, output=tmp_path / "m.dipgo", options=BuildOptions(height=16, images=2)).plan
    assert plan.program.specs[plan.interface.latents].shape == (2, 4, 16, 8)


def test_a_mask_of_another_file(torchscript: File, today: File) -> None:
    mask = make_mask(torchscript.open(), ("111", "000"), "ddim")
    with pytest.raises(MaskError, match="another configuration of onnx"):
        check(mask, today.open())
    unknown = replace(mask, blocks=("stages.0", "stages.1", "stages.9"))
    with pytest.raises(MaskError, match=r"no block 'stages.9'"):
        check(unknown, torchscript.open())


def test_residual_reuse_is_refused(today: File) -> None:
    mask = replace(make_mask(today.open(), ("111", "000"), "ddim"), reuse="residual")
    with pytest.raises(MaskError, match="blocks of an ONNX file have no known residual"):
        check(mask, today.open())


def test_where_pytorch_is_needed(torchscript: File) -> None:
    with pytest.raises(ModelError, match="is an ONNX file, and this needs the denoiser in PyTorch"):
        load(str(torchscript.path))


def test_options_for_files_go_with_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not an ONNX file"):
        open_model("random:sd15", reading=Reading(sample="x"), weights=False)
