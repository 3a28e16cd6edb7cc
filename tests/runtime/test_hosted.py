"""The drop-in denoiser, without and with torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy

from dipgo_compile.bundle import PLAN
from dipgo_compile.errors import InputError
from dipgo_compile.formats.plan_json import checksum
from dipgo_compile.running.hosted import HostedDenoiser
from dipgo_compile.runtime import Runtime

TOLERANCE = 1e-5  # as in test_executor


@pytest.fixture
def denoiser(runtime: Runtime) -> HostedDenoiser:
    return runtime.as_unet()


def host(
    denoiser: Any, image: dict[str, np.ndarray], scale: float, timesteps: Sequence[float] = toy.TIMESTEPS
) -> np.ndarray:
    """The toy's scheduler, run by a host."""
    x = 2.0 * image["latents"]
    for index, (timestep, factor) in enumerate(zip(timesteps, (1.0, 0.5, 0.25, 0.125), strict=True)):
        sample = np.concatenate([x, x]) * np.float32(factor)
        e = denoiser(sample, timestep, text=image["text"], return_dict=False)[0]
        x = x - 0.5 * (e[:1] + scale * (e[1:] - e[:1]))
        if index == 0:
            x = x + 0.1 * image["draw"]
    return x


def test_a_host_scheduler_gets_the_same_latents(denoiser: HostedDenoiser) -> None:
    for seed in range(2):  # the second image does not see the first one's cache
        image = toy.image(seed)
        result = host(denoiser, image, 3.0)
        np.testing.assert_allclose(result, toy.expected(**image, scale=3.0), atol=TOLERANCE, rtol=0)


def test_an_interrupted_image_leaves_nothing_behind(denoiser: HostedDenoiser) -> None:
    image = toy.image(5)
    sample = np.concatenate([image["latents"]] * 2)
    denoiser(sample, toy.TIMESTEPS[0], text=image["text"])
    denoiser(sample, toy.TIMESTEPS[1], text=image["text"])
    image = toy.image(1)
    np.testing.assert_allclose(
        host(denoiser, image, 3.0), toy.expected(**image, scale=3.0), atol=TOLERANCE, rtol=0
    )


def test_a_first_timestep_that_comes_twice(bundle: Path) -> None:
    """As image-to-image bundles of PLMS have it: the second call takes other conditions for another image."""
    document = json.loads((bundle / PLAN).read_text())
    document["calls"][1]["timestep"] = toy.TIMESTEPS[0]
    del document["checksum"]
    (bundle / PLAN).write_text(json.dumps({**document, "checksum": checksum(document)}))
    given_up, image = toy.image(5), toy.image(1)
    timesteps = (toy.TIMESTEPS[0], toy.TIMESTEPS[0], *toy.TIMESTEPS[2:])
    with Runtime.load(bundle, threads=1) as runtime:
        denoiser = runtime.as_unet()
        denoiser(np.concatenate([given_up["latents"]] * 2), timesteps[0], text=given_up["text"])
        result = host(denoiser, image, 3.0, timesteps)
    np.testing.assert_allclose(result, toy.expected(**image, scale=3.0), atol=TOLERANCE, rtol=0)


def test_a_call_that_computes_nothing_repeats_the_last_answer(denoiser: HostedDenoiser) -> None:
    image = toy.image()
    sample = np.concatenate([image["latents"]] * 2)
    answers = [denoiser(sample * index, t, image["text"]).sample for index, t in enumerate(toy.TIMESTEPS)]
    np.testing.assert_array_equal(answers[3], answers[2])
    assert answers[3] is not answers[2]
    assert np.abs(answers[2] - answers[1]).max() > 0.1


def test_torch_in_torch_out(denoiser: HostedDenoiser) -> None:
    image = toy.image()
    sample = np.concatenate([image["latents"]] * 2)
    plain = denoiser(sample, 981, image["text"]).sample
    answer = denoiser(
        torch.from_numpy(sample),
        torch.tensor(981),
        encoder_attention_mask=None,
        text=torch.from_numpy(image["text"]),
    )
    assert isinstance(answer.sample, torch.Tensor)
    assert answer[0] is answer.sample
    np.testing.assert_array_equal(answer.sample.numpy(), plain)
    assert (denoiser.dtype, denoiser.device) == (torch.float32, torch.device("cpu"))


def test_conditions_may_come_in_dictionaries(denoiser: HostedDenoiser) -> None:
    image = toy.image()
    sample = np.concatenate([image["latents"]] * 2)
    plain = denoiser(sample, 981, image["text"]).sample
    inside = {"added_cond_kwargs": {"text": image["text"], "resolution": None}, "cross_attention_kwargs": {}}
    np.testing.assert_array_equal(denoiser(sample, 981, **inside).sample, plain)


def test_config_reads_as_attributes(denoiser: HostedDenoiser) -> None:
    assert denoiser.config.in_channels == denoiser.config["in_channels"] == 2
    assert not hasattr(denoiser.config, "addition_embed_type")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "timestep": ({"timestep": 961}, r"call 0 of 4 has timestep 981 .* asks for 961"),
    "timesteps": ({"timestep": np.array([981, 961])}, "one timestep for the whole batch"),
    "no guidance": ({"sample": np.zeros(toy.LATENTS, np.float32)}, r"batch of 1, .* compiled for 2"),
    "batch": ({"sample": np.zeros((6, 2, 4, 4), np.float32)}, r"batch of 6, .* compiled for 2"),
    "size": ({"sample": np.zeros((2, 2, 8, 8), np.float32)}, r"sample has shape \(2, 2, 8, 8\)"),
    "half": ({"sample": np.zeros(toy.GUIDED, np.float16)}, "sample is float16"),
    "bfloat16": ({"sample": torch.zeros(toy.GUIDED, dtype=torch.bfloat16)}, "sends torch.bfloat16"),
    "unknown": ({"mid_block_additional_residual": 1}, "mid_block_additional_residual"),
    "unknown inside": ({"cross_attention_kwargs": {"scale": 0.5}}, "unknown arguments .*scale"),
    "missing": ({"text": None}, r"without \['text'\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls_say_what_was_expected(denoiser: HostedDenoiser, case: str) -> None:
    changes, message = WRONG[case]
    given = {"sample": np.zeros(toy.GUIDED, np.float32), "timestep": 981, "text": toy.image()["text"]}
    with pytest.raises(InputError, match=message):
        denoiser(**{**given, **changes})
    np.testing.assert_allclose(  # and the next image is right
        host(denoiser, toy.image(), 3.0), toy.expected(**toy.image(), scale=3.0), atol=TOLERANCE, rtol=0
    )


def test_a_pipeline_without_guidance_is_told_so(denoiser: HostedDenoiser) -> None:
    with pytest.raises(InputError) as caught:
        denoiser(np.zeros(toy.LATENTS, np.float32), 981, toy.image()["text"])
    assert "guidance_scale > 1" in str(caught.value)


def test_another_schedule_is_found_at_its_first_difference(denoiser: HostedDenoiser) -> None:
    image = toy.image()
    sample = np.concatenate([image["latents"]] * 2)
    denoiser(sample, 981, image["text"])
    with pytest.raises(InputError, match=r"call 1 of 4 has timestep 500.5") as caught:
        denoiser(sample, 480, image["text"])
    assert "ToyScheduler with 4 steps" in str(caught.value)


def test_conditions_stay_for_an_image(denoiser: HostedDenoiser) -> None:
    image = toy.image()
    sample = np.concatenate([image["latents"]] * 2)
    denoiser(sample, 981, image["text"])
    with pytest.raises(InputError, match="changed at call 1"):
        denoiser(sample, 500.5, image["text"] + 1)
