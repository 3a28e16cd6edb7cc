"""The reference chain against a diffusers loop written out by hand."""

from __future__ import annotations

import pytest
import torch
from dipgo_trainer.chain import reference_chain, scheduler_of
from tiny_models import conditions_of, mask_of, noise_of, scheduler_ref

from dipgo_compile.errors import InputError, MaskError
from dipgo_compile.models.source import Model, make_scheduler

STEPS = 4


@pytest.mark.parametrize("class_name", ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("guidance_scale", [None, 3.0])
def test_a_whole_mask_is_the_diffusers_loop(
    unet: Model, class_name: str, guidance_scale: float | None
) -> None:
    schedule = scheduler_ref(STEPS, class_name)
    blocks = unet.blocks()
    mask = mask_of(unet, blocks, ((True,) * len(blocks),) * len(schedule.timesteps), schedule)
    conditions = conditions_of(unet, guided=guidance_scale is not None)
    trace = reference_chain(unet, mask, noise_of(), conditions, guidance_scale)

    scheduler = make_scheduler(class_name, schedule.config)
    scheduler.set_timesteps(STEPS)
    sample = noise_of() * scheduler.init_noise_sigma
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            read = scheduler.scale_model_input(sample, timestep)
            noise = unet.denoiser(
                read if guidance_scale is None else torch.cat([read] * 2),
                timestep.float(),
                conditions["encoder_hidden_states"],
            ).sample
            if guidance_scale is not None:
                uncond, cond = noise.chunk(2)
                noise = uncond + guidance_scale * (cond - uncond)
            sample = scheduler.step(noise, timestep, sample).prev_sample
    assert trace.timesteps == schedule.timesteps
    assert len(trace.noise_pred) == len(trace.latents) == len(schedule.timesteps)
    # the same operations, but a timestep in a batch of one takes another path: roundings of 1e-7
    torch.testing.assert_close(trace.final, sample, atol=1e-5, rtol=1e-5)


def test_learned_sigma_and_the_order_of_guidance(dit: Model) -> None:
    """A DiT answers with eight channels for four, and its pipeline puts the conditional half first."""
    schedule = scheduler_ref(1)
    blocks = dit.blocks()
    mask = mask_of(dit, blocks, ((True,) * len(blocks),), schedule)
    trace = reference_chain(dit, mask, noise_of(), conditions_of(dit), 4.0)
    assert trace.noise_pred[0].shape == (2, 8, 8, 8)
    cond, uncond = trace.noise_pred[0][:, :4].chunk(2)
    scheduler = scheduler_of(mask)
    guided = uncond + 4.0 * (cond - uncond)
    expected = scheduler.step(guided, scheduler.timesteps[0], noise_of()).prev_sample
    assert torch.equal(trace.final, expected)


def test_a_call_that_reuses_all_blocks_answers_as_the_call_before(unet: Model) -> None:
    schedule = scheduler_ref(STEPS)
    blocks = unet.blocks()
    keep = tuple((call != 2,) * len(blocks) for call in range(STEPS))
    trace = reference_chain(unet, mask_of(unet, blocks, keep, schedule), noise_of(), conditions_of(unet), 3.0)
    assert torch.equal(trace.noise_pred[2], trace.noise_pred[1])
    assert not torch.equal(trace.noise_pred[3], trace.noise_pred[2])


def test_given_noise_is_what_the_scheduler_draws(unet: Model) -> None:
    schedule = scheduler_ref(STEPS, "EulerAncestralDiscreteScheduler")
    blocks = unet.blocks()
    mask = mask_of(unet, blocks, ((True,) * len(blocks),) * STEPS, schedule)
    conditions = conditions_of(unet)
    generator = torch.Generator().manual_seed(5)
    by_generator = reference_chain(unet, mask, noise_of(), conditions, 3.0, generator=generator)
    generator.manual_seed(5)
    draws = [torch.randn(noise_of().shape, generator=generator) for _ in range(STEPS)]
    given = reference_chain(unet, mask, noise_of(), conditions, 3.0, noise=draws)
    assert torch.equal(given.final, by_generator.final)
    with pytest.raises(InputError, match="no more was given"):
        reference_chain(unet, mask, noise_of(), conditions, 3.0, noise=draws[:1])


def test_timesteps_of_another_schedule_are_refused(unet: Model) -> None:
    blocks = unet.blocks()
    schedule = scheduler_ref(3)
    other = type(schedule)(schedule.class_name, schedule.config, 4, schedule.timesteps)
    mask = mask_of(unet, blocks, ((True,) * len(blocks),) * 3, other)
    with pytest.raises(MaskError, match="3 timesteps"):
        reference_chain(unet, mask, noise_of(), conditions_of(unet), 3.0)


def test_missing_conditions_are_named(unet: Model) -> None:
    blocks = unet.blocks()
    mask = mask_of(unet, blocks, ((True,) * len(blocks),) * 2, scheduler_ref(2))
    with pytest.raises(InputError, match="encoder_hidden_states"):
        reference_chain(unet, mask, noise_of(), {}, None)
