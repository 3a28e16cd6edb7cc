"""The SuperNet (paper, section 3.1): a denoiser whose blocks can be replaced by what they gave at the call
before.

It knows no architecture: a block is a module scope, and what it gives is whatever pytree its ``forward``
returns (a UNet's down block: its hidden state and its skip outputs). With rows of booleans it is the oracle
of the whole product, and does no arithmetic of its own, so that a kept block is bit for bit the denoiser's.
With gates it is differentiable.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dipgo_compile.errors import MaskError, ModelError
from dipgo_compile.masks.reuse import block_input, has_residual
from dipgo_trainer.gating import gate

REUSES = ("output", "residual")


@dataclass(frozen=True)
class Cached:
    """What a block gave last: the leaves of its output (or of output minus input) and how to put them
    together."""

    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec


Cache = tuple[Cached | None, ...]
"""One entry per scope; None before the block's first computation."""


class SuperNet:
    """A context manager that gives ``denoiser`` block reuse and takes it away on exit.

    Inside it, choose what the next call computes with ``set_row`` or ``set_gates``, then call the denoiser as
    usual. ``reuse``: a reused block gives its last ``output``, or its input plus its last ``residual``
    (output minus input). Raises ModelError for scopes that the denoiser lacks, that contain one another, or
    that a call doesn't enter exactly once.
    """

    def __init__(self, denoiser: nn.Module, scopes: Sequence[str], reuse: str = "output") -> None:
        if reuse not in REUSES:
            raise MaskError(f"unknown kind of reuse {reuse!r}", where="reuse", available=REUSES)
        self.denoiser = denoiser
        self.scopes = tuple(scopes)
        self.reuse = reuse
        self._modules = _find(denoiser, self.scopes)
        self._undo: list[Callable[[], None]] = []
        self._entered: list[int] = []
        self.reset()

    def __enter__(self) -> SuperNet:
        if self._undo:
            raise ModelError("this SuperNet is already entered", mend="leave the first `with` block before")
        for index, module in enumerate(self._modules):
            self._undo.append(_replace_forward(module, self._wrapped(index, module.forward)))
        before = self.denoiser.register_forward_pre_hook(lambda *_: self._entered.clear())
        after = self.denoiser.register_forward_hook(lambda *_: self._check_entered())
        self._undo += [before.remove, after.remove]
        self.reset()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._undo:
            self._undo.pop()()
        self.reset()

    def reset(self) -> None:
        """Forget all cached outputs and compute every block at the next call."""
        self.cache: Cache = (None,) * len(self.scopes)
        self._gates: Tensor | None = None
        self._mixes: tuple[tuple[float, float], ...] = ((0.0, 1.0),) * len(self.scopes)

    def set_row(self, row: Sequence[bool]) -> None:
        """Compute the blocks whose entry is true; don't execute the others. One entry per scope."""
        self._check_length(len(row))
        self._gates, self._mixes = None, tuple((0.0, 1.0) if keep else (1.0, 0.0) for keep in row)

    def set_gates(self, gates: Tensor) -> None:
        """Compute every block and mix: ``output = reuse * cached + keep * computed``, which is cached in
        turn.

        ``gates``: shape (scopes, 2), columns (reuse, keep), any values; gradients flow to it. A block without
        a cached output must have the gate (0, 1).
        """
        self._check_length(len(gates))
        self._gates, self._mixes = gates, tuple((reuse, keep) for reuse, keep in gates.detach().tolist())

    def _check_length(self, length: int) -> None:
        if length != len(self.scopes):
            raise MaskError(f"{length} gates for {len(self.scopes)} blocks", available=self.scopes)

    def _wrapped(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def block(*args: Any, **kwargs: Any) -> Any:
            self._entered.append(index)
            gated, keep = self._gates is not None, self._mixes[index][1]
            if not gated and not keep:
                return self._reused(index, args, kwargs)
            # A closed gate passes no gradient on into the block, only to itself: no graph is needed inside.
            with torch.set_grad_enabled(torch.is_grad_enabled() and keep != 0.0):
                output = forward(*args, **kwargs)
                computed = self._storable(index, output, args, kwargs)
            if not gated:
                self._store(index, computed)
                return output
            self._store(index, self._mixed(index, computed))
            return self._reused(index, args, kwargs)

        return block

    def _mixed(self, index: int, computed: Cached) -> Cached:
        assert self._gates is not None
        cached = self.cache[index]
        if cached is None:
            if self._mixes[index] != (0.0, 1.0):
                raise self._empty(index)
            return computed
        leaves = (
            gate(self._gates[index], self._mixes[index], old, new) if isinstance(new, Tensor) else new
            for old, new in zip(cached.leaves, computed.leaves, strict=True)
        )
        return Cached(tuple(leaves), computed.spec)

    def _reused(self, index: int, args: Any, kwargs: Any) -> Any:
        cached = self.cache[index]
        if cached is None:
            raise self._empty(index)
        if self.reuse == "output":
            return pytree.tree_unflatten(cached.leaves, cached.spec)
        return pytree.tree_unflatten((block_input(args, kwargs) + cached.leaves[0],), cached.spec)

    def _storable(self, index: int, output: Any, args: Any, kwargs: Any) -> Cached:
        leaves, spec = pytree.tree_flatten(output)
        if self.reuse == "output":
            return Cached(tuple(leaves), spec)
        source = block_input(args, kwargs)
        if not has_residual(source, output):
            raise ModelError(
                "a block without residual: it does not answer with one tensor of its input's shape",
                where=self.scopes[index],
                mend='use reuse="output", or choose blocks that keep the shape (transformer blocks)',
            )
        return Cached((leaves[0] - source,), spec)

    def _store(self, index: int, value: Cached) -> None:
        self.cache = (*self.cache[:index], value, *self.cache[index + 1 :])

    def _empty(self, index: int) -> MaskError:
        return MaskError(
            f"the block {self.scopes[index]} is to be reused, but was never computed",
            where=self.scopes[index],
            mend="compute every block at the first call (row 0 of a mask is all ones)",
        )

    def _check_entered(self) -> None:
        for index, scope in enumerate(self.scopes):
            times = self._entered.count(index)
            if times != 1:
                raise ModelError(
                    f"a denoiser call entered the block {scope} {times} times; a block must run exactly once",
                    where=scope,
                    mend="choose other module scopes as blocks",
                )


def _find(denoiser: nn.Module, scopes: Iterable[str]) -> list[nn.Module]:
    known = dict(denoiser.named_modules())
    scopes = list(scopes)
    for scope in scopes:
        if not scope or scope not in known:
            close = difflib.get_close_matches(scope, known, n=5, cutoff=0.4)
            raise ModelError(
                f"the denoiser has no module scope {scope!r}",
                where=type(denoiser).__name__,
                available=close or [name for name, _ in denoiser.named_children()],
                mend="name scopes as torch's named_modules() does",
            )
        outer = next((other for other in scopes if scope.startswith(f"{other}.")), None)
        if outer is not None:
            raise ModelError(f"the block {scope} lies inside the block {outer}", mend="name only one of them")
    if len(set(scopes)) != len(scopes):
        raise ModelError("a block is named twice", available=scopes)
    return [known[scope] for scope in scopes]


def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
    """Shadow the class's ``forward`` on the instance; the result undoes it (another tool may have shadowed it
    too)."""
    missing = object()
    before = module.__dict__.get("forward", missing)
    module.__dict__["forward"] = forward

    def undo() -> None:
        if before is missing:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before

    return undo
