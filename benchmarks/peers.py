"""The rows of the quality benchmark: a trained mask, and other ways to spend as many MACs on an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import compress
from typing import Any

from benchmarks import mask_rules
from benchmarks.scenarios import QualityScenario
from dipgo_compile.graphs.export import export
from dipgo_compile.graphs.partition import partition
from dipgo_compile.macs.counts import Macs, count_macs
from dipgo_compile.mask import Keep, Mask, SchedulerRef
from dipgo_compile.masks import heuristics
from dipgo_compile.models.source import Model
from dipgo_compile.schedules.probe import probe

LATER_START = 2  # calls that the row "later-start" goes without


@dataclass(frozen=True)
class Peer:
    """One row. The mask is made when it is needed: some take a while."""

    name: str
    about: str
    make: Callable[[], Mask]


class Peers:
    """Makes the rows for a model and the mask that was trained for it."""

    def __init__(self, model: Model, trained: Mask, scenario: QualityScenario) -> None:
        self._model, self._trained, self._scenario = model, trained, scenario

    def all(self) -> tuple[Peer, ...]:
        """In the order of the table."""
        calls, whole = self._trained.calls, self._whole_calls
        seeds = range(1, self._scenario.random_masks + 1)
        return (
            Peer("dense", f"unpruned, {calls} calls", self._dense),
            Peer("trained", "the trained mask", lambda: self._trained),
            *self._residual_peer(),
            *(
                Peer(f"random-{seed}", f"random mask, seed {seed}", partial(self._random, seed))
                for seed in seeds
            ),
            Peer("even", f"{whole} of {calls} calls, evenly spaced", self._even),
            Peer(
                "to-the-end",
                f"{whole} of {calls} calls, evenly spaced from the first to the last",
                self._to_the_end,
            ),
            *self._deepcache_peer(),
            *self._later_start_peer(),
            Peer("fewer-steps", f"unpruned, {whole} steps", partial(self._whole, whole)),
        )

    def _deepcache_peer(self) -> tuple[Peer, ...]:
        interval = self._scenario.deepcache_interval
        if interval is None:
            return ()
        about = f"DeepCache, interval {interval}, branch 0, fewer steps"
        return (Peer("deepcache", about, partial(self._deepcache, interval)),)

    def _residual_peer(self) -> tuple[Peer, ...]:
        mask = self._scenario.residual_mask
        about = "a mask trained to reuse residuals"
        return () if mask is None else (Peer("residual", about, partial(Mask.load, mask)),)

    def _later_start_peer(self) -> tuple[Peer, ...]:
        """The trained mask's chain without its first calls, where a number of steps gives just that.

        diffusers spaces timesteps by whole numbers, from the end: 48 steps are 50 without the first two.
        """
        calls = self._trained.calls
        steps = calls - LATER_START
        if self._schedule(steps).timesteps != self._trained.scheduler.timesteps[LATER_START:]:
            return ()
        about = f"unpruned, {steps} steps: spaced like {calls}, without the first two"
        return (Peer("later-start", about, partial(self._whole, steps)),)

    @cached_property
    def macs(self) -> Macs:
        """Of one call, by block and by layer."""
        scopes = {*self._model.blocks("block"), *self._model.blocks("layer")}
        return count_macs(self._model, self._model.geometry(1), scopes)

    def macs_per_image(self, mask: Mask) -> int:
        """As the paper counts: guidance, which doubles the work of every row, is left out."""
        return mask.kept_macs(self._of(mask.blocks))

    def _of(self, blocks: tuple[str, ...]) -> Macs:
        """Blocks contain layers: the glue is what lies outside those that count."""
        return Macs(self.macs.total, {block: self.macs.by_scope[block] for block in blocks})

    @cached_property
    def _consumers(self) -> Mapping[str, frozenset[str | None]]:
        geometry = self._model.geometry(1)
        graph = partition(export(self._model, geometry), self._trained.blocks, self._model.inputs(geometry))
        return graph.consumers()

    @property
    def _kept(self) -> float:
        return self._trained.macs_ratio(self._of(self._trained.blocks))

    @property
    def _whole_calls(self) -> int:
        return round(self._kept * self._trained.calls)

    def _with(self, keep: Keep, method: str, **changes: Any) -> Mask:
        return replace(self._trained, keep=keep, provenance={"method": method}, **changes)

    def _schedule(self, steps: int) -> SchedulerRef:
        """The trained mask's scheduler with fewer steps."""
        own = self._trained.scheduler
        timesteps = probe(own.class_name, own.config, steps).timesteps
        return SchedulerRef(own.class_name, own.config, steps, timesteps)

    def _dense(self) -> Mask:
        return self._with(heuristics.every(self._trained.calls, len(self._trained.blocks), 1), "dense")

    def _even(self) -> Mask:
        keep = heuristics.evenly_spaced(self._trained.calls, len(self._trained.blocks), self._whole_calls)
        return self._with(keep, "even")

    def _to_the_end(self) -> Mask:
        """As ``_even``, but ending with the last call, as a schedule of fewer steps does."""
        calls, count = self._trained.calls, self._whole_calls
        computed = [round(index * (calls - 1) / (count - 1)) for index in range(count)]
        keep = heuristics.whole_calls(calls, len(self._trained.blocks), computed)
        return self._with(keep, "to-the-end")

    def _random(self, seed: int) -> Mask:
        blocks = self._trained.blocks
        keep = heuristics.random_keep(
            self._trained.calls, blocks, 1 - self._kept, seed, self._of(blocks), self._consumers
        )
        return self._with(keep, "random")

    def _whole(self, steps: int) -> Mask:
        """Every block at every call of a shorter schedule."""
        scheduler = self._schedule(steps)
        keep = heuristics.every(len(scheduler.timesteps), len(self._trained.blocks), 1)
        return self._with(keep, "dense", scheduler=scheduler)

    def _deepcache(self, interval: int) -> Mask:
        """DeepCache's first branch (``mask_rules.deepcache``).

        The layer that it always computes is a UNet's dearest, so on the trained mask's schedule no interval
        is as cheap as the mask: the row takes the number of steps that costs as much.
        """
        blocks = self._model.blocks("layer")
        macs = self._of(blocks)
        keep = partial(mask_rules.deepcache, blocks, interval=interval)

        def distance(steps: int) -> int:
            cost = sum(macs.of_call(compress(blocks, row)) for row in keep(steps))
            return abs(cost - self.macs_per_image(self._trained))

        scheduler = self._schedule(min(range(1, self._trained.calls + 1), key=distance))
        return self._with(keep(len(scheduler.timesteps)), "deepcache", blocks=blocks, scheduler=scheduler)
