"""The SuperNet against a plain denoiser and against hand-written reuse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from dipgo_trainer.supernet import SuperNet
from torch import Tensor, nn

from dipgo_compile.errors import MaskError, ModelError
from dipgo_compile.models.source import Model, example_inputs


def inputs_of(model: Model, seed: int = 0) -> dict[str, Tensor]:
    return example_inputs(model.inputs(model.geometry(2)), seed)


def call(model: Model, seed: int = 0) -> Tensor:
    with torch.no_grad():
        answer: Tensor = model.denoiser(**inputs_of(model, seed), return_dict=False)[0]
    return answer


@contextmanager
def executions(model: Model) -> Iterator[list[str]]:
    """Names of the leaf modules that run."""
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in model.denoiser.named_modules()
        if not list(module.children())
    ]
    yield ran
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_all_ones_is_the_plain_denoiser_bit_for_bit(model: Model, granularity: str) -> None:
    plain = [call(model, seed) for seed in range(2)]
    blocks = model.blocks(granularity)
    with SuperNet(model.denoiser, blocks) as net:
        for seed in range(2):
            net.set_row((True,) * len(blocks))
            assert torch.equal(call(model, seed), plain[seed])


@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_a_reused_block_is_not_executed(model: Model, granularity: str) -> None:
    blocks = model.blocks(granularity)
    row = tuple(index % 2 == 0 for index in range(len(blocks)))
    with SuperNet(model.denoiser, blocks) as net:
        call(model)
        with executions(model) as ran:
            net.set_row(row)
            call(model)
    for block, keep in zip(blocks, row, strict=True):
        assert any(name == block or name.startswith(f"{block}.") for name in ran) == keep
    assert ran, "what is no block always runs"


class Doubler(nn.Module):
    """Answers with a nested pytree, to show that any will do."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, *, extra: None = None) -> dict[str, object]:
        return {"hidden": x * self.factor, "skips": (x + self.factor, [x - self.factor])}


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Doubler(2.0), Doubler(3.0)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a["hidden"], extra=None)
        return b["hidden"] + a["skips"][0] + b["skips"][1][0]


def toy(a: float, b: float) -> float:
    """Toy's answer when block a last read ``a``, and b last read ``b``."""
    return 3 * b + (a + 2) + (b - 3)


def test_row_semantics() -> None:
    denoiser = Toy()
    x = [torch.tensor([value]) for value in (1.0, 5.0, 7.0, 11.0)]
    with SuperNet(denoiser, ("a", "b")) as net:
        assert denoiser(x[0]).item() == toy(1, 2)
        net.set_row((True, False))  # b keeps what it made of 2
        assert denoiser(x[1]).item() == toy(5, 2)
        net.set_row((False, True))  # b reads what a made of 5
        assert denoiser(x[2]).item() == toy(5, 10)
        net.set_row((False, False))
        assert denoiser(x[3]).item() == toy(5, 10)
    assert denoiser(x[3]).item() == toy(11, 22), "the denoiser is plain again"


def test_forwards_are_restored_after_an_error(unet: Model) -> None:
    blocks = unet.blocks()
    plain = call(unet)
    with pytest.raises(RuntimeError, match="inside"), SuperNet(unet.denoiser, blocks):
        raise RuntimeError("inside")
    assert all("forward" not in unet.denoiser.get_submodule(block).__dict__ for block in blocks)
    assert torch.equal(call(unet), plain)


def test_residual_reuse_adds_the_new_input(dit: Model) -> None:
    blocks = dit.blocks()
    block = dit.denoiser.get_submodule(blocks[1])
    read: list[Tensor] = []
    given: list[Tensor] = []

    def watch(_: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        read.append(args[0])
        given.append(output)

    handle = block.register_forward_hook(watch)
    with SuperNet(dit.denoiser, blocks, reuse="residual") as net:
        call(dit, 0)
        net.set_row((True, False, True))
        call(dit, 1)
    handle.remove()
    # one rounding of the difference and one of the sum
    torch.testing.assert_close(given[1], read[1] + (given[0] - read[0]), atol=1e-6, rtol=1e-6)
    assert not torch.equal(given[1], given[0])


def test_residual_reuse_refuses_blocks_that_change_the_shape(unet: Model) -> None:
    with (
        pytest.raises(ModelError, match="without residual"),
        SuperNet(unet.denoiser, unet.blocks(), "residual"),
    ):
        call(unet)


def test_hard_gates_do_what_rows_do(model: Model) -> None:
    blocks = model.blocks()
    rows = [(True,) * len(blocks), tuple(index % 2 == 1 for index in range(len(blocks)))]
    with SuperNet(model.denoiser, blocks) as net:
        by_row = []
        for seed, row in enumerate(rows):
            net.set_row(row)
            by_row.append(call(model, seed))
        net.reset()
        for seed, row in enumerate(rows):
            keep = torch.tensor(row).float()
            net.set_gates(torch.stack([1 - keep, keep], -1))
            assert torch.equal(call(model, seed), by_row[seed])


def test_reuse_without_a_cached_output_is_refused(unet: Model) -> None:
    blocks = unet.blocks()
    with SuperNet(unet.denoiser, blocks) as net:
        net.set_row((False,) * len(blocks))
        with pytest.raises(MaskError, match="never computed"):
            call(unet)
        net.set_gates(torch.full((len(blocks), 2), 0.5))
        with pytest.raises(MaskError, match="never computed"):
            call(unet)


def test_unknown_scopes_are_refused_with_close_ones(unet: Model) -> None:
    with pytest.raises(ModelError, match=r"available:.*mid_block"):
        SuperNet(unet.denoiser, ("mid_blok",))


def test_nested_and_repeated_scopes_are_refused(unet: Model) -> None:
    with pytest.raises(ModelError, match="lies inside"):
        SuperNet(unet.denoiser, ("up_blocks.0", "up_blocks.0.resnets.0"))
    with pytest.raises(ModelError, match="named twice"):
        SuperNet(unet.denoiser, ("mid_block", "mid_block"))


class Uneven(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(self.twice(x))


@pytest.mark.parametrize(("scope", "times"), [("twice", 2), ("never", 0)])
def test_a_scope_must_be_entered_once_a_call(scope: str, times: int) -> None:
    denoiser = Uneven()
    with SuperNet(denoiser, (scope,)), pytest.raises(ModelError, match=f"{times} times"):
        denoiser(torch.ones(1))


def test_a_row_of_the_wrong_length_is_refused(unet: Model) -> None:
    net = SuperNet(unet.denoiser, unet.blocks())
    with pytest.raises(MaskError, match="2 gates"):
        net.set_row((True, False))
    with pytest.raises(MaskError, match="2 gates"):
        net.set_gates(torch.ones(2, 2))
