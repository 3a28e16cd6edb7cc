"""The shapes of a loaded bundle, each with its plan and its engines, and a thread's memory for them.

Engines take time and memory to open, so those of a shape are opened when it is first used. An arena is made
for the largest shape, whose plan is the bundle's first, and serves every other: ``verify_shapes`` has checked
that each fits.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dipgo_compile.backends.base import Backend, EngineSession, LoadOptions
from dipgo_compile.bundle import Bundle
from dipgo_compile.executor import Arena, Session, new_arena
from dipgo_compile.plan import Plan
from dipgo_compile.shapes import Shape, Shapes


class OpenedShape:
    """One shape of a loaded bundle. Threads may share it."""

    def __init__(self, bundle: Bundle, backend: Backend, options: LoadOptions) -> None:
        """``bundle`` is seen as one of this shape."""
        self.plan = bundle.plan
        self._bundle, self._backend, self._options = bundle, backend, options
        self._opening = threading.Lock()
        self._engines: Mapping[str, EngineSession] | None = None

    def engines(self) -> Mapping[str, EngineSession]:
        """By name, opened now or earlier. Raises BackendError."""
        with self._opening:
            if self._engines is None:
                self._engines = self._backend.open(self._bundle, self._options)
            return self._engines

    @property
    def on_device(self) -> bool:
        """Whether engines compute in a memory of their own."""
        return self._backend.memory() is not None

    def session(self, arena: Arena | None = None) -> Session:
        """A new session, over ``arena`` or one of its own. Raises BackendError, BundleError."""
        session = Session(self.plan, self.engines(), self._backend.memory(), arena)
        if self._options.memory == "fast":
            session.warm_up()
        return session


class Workspace:
    """What one thread works in: an arena, and over it a session for each shape that the thread has used, so
    that its second image finds memory warm. The sessions take turns.
    """

    def __init__(self, shapes: Shapes, opened: Mapping[Shape, OpenedShape]) -> None:
        self._shapes, self._opened = shapes, opened
        largest = max(opened.values(), key=lambda shape: shape.plan.memory.arena_bytes)
        self._arena = new_arena(largest.plan.memory.arena_bytes, touch=not largest.on_device)
        self._sessions: dict[Shape, Session] = {}

    def session(self, shape: Shape) -> Session:
        """Raises BackendError."""
        if shape not in self._sessions:
            self._sessions[shape] = self._opened[shape].session(self._arena)
        return self._sessions[shape]

    def reading(self, sample: Sequence[int]) -> Session:
        """The session whose denoiser reads samples of this shape. Raises InputError."""
        for shape, opened in self._opened.items():
            if sample_shape(opened.plan) == Shape.of(sample):
                return self.session(shape)
        raise self._shapes.refusal(f"samples of shape {tuple(sample)}")


def sample_shape(plan: Plan) -> Shape:
    """Of what a host sends in a call: the plan's own, with both halves of a guided batch."""
    return replace(plan.shape, images=plan.samples)
