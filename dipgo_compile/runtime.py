"""The public face of a bundle: load it once, then denoise as many images as you like, from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dipgo_compile.backends.base import Backend, LoadOptions
from dipgo_compile.backends.registry import make_backend
from dipgo_compile.bundle import Bundle, open_bundle
from dipgo_compile.errors import InputError
from dipgo_compile.executor import Session, unit_noise
from dipgo_compile.plan import Plan, Target
from dipgo_compile.program import Array

if TYPE_CHECKING:
    from dipgo_compile.hosted import HostedDenoiser

DEFAULT_GUIDANCE_SCALE = 7.5


class Runtime:
    """A loaded bundle. Threads may share it: each works in a session of its own, all use the same engines."""

    def __init__(self, bundle: Bundle, backend: Backend, options: LoadOptions | None = None) -> None:
        self.bundle = bundle
        self._options = options or LoadOptions()
        self._engines = backend.open(bundle, self._options)
        self._local = threading.local()
        self._closed = False

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        backend: str | None = None,
        provider: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        memory: str = "balanced",
        verify: bool = True,
    ) -> Runtime:
        """Load a bundle.

        ``backend``, ``provider`` and ``precision`` override what it was built for; ``threads`` compute one
        engine together (default: the physical cores). ``memory`` is ``low``, ``balanced`` or ``fast``: see
        ``LoadOptions``. ``verify=False`` skips hashing the files, which reads those that changed since they
        were last hashed. Raises BundleError, BackendError, InputError.
        """
        options = LoadOptions(threads, memory, verify)
        bundle = open_bundle(path, verify=verify)
        built = bundle.plan.target
        target = Target(provider or built.provider, precision or built.precision, backend or built.backend)
        return cls(bundle, make_backend(target), options)

    @property
    def plan(self) -> Plan:
        return self.bundle.plan

    def denoise(
        self,
        latents: npt.ArrayLike | None = None,
        *,
        seed: int | None = None,
        guidance_scale: float | None = None,
        draws: Sequence[npt.ArrayLike] | None = None,
        callback: Callable[[int], None] | None = None,
        **conditions: npt.ArrayLike,
    ) -> Array:
        """The final latents, float32 of shape (batch, channels, height, width), before the image decoder's
        scaling.

        ``latents`` is the initial noise, of unit variance; ``draws`` the noise a stochastic scheduler adds.
        What is not given is drawn from ``seed`` (None: anew each time). ``guidance_scale`` is 7.5 unless
        given; ``conditions`` are the denoiser's own keywords, such as ``encoder_hidden_states``, in the order
        ``plan.interface.guidance`` says. ``callback`` gets the index of every denoiser call that computes
        anything; an exception from it ends the image. Raises InputError for wrong names, shapes and dtypes.
        """
        plan, generator = self.plan, np.random.default_rng(seed)
        specs, interface = plan.program.specs, plan.interface
        if guidance_scale is not None and interface.guidance is None:
            raise InputError(
                "a guidance scale was given, but the bundle was built without guidance",
                mend="build it with guidance, or leave the scale out",
            )
        if latents is None:
            latents = unit_noise(specs[interface.latents].shape, generator)
        if draws is None:
            draws = [unit_noise(specs[name].shape, generator) for name in interface.draws]
        return self._own_session().denoise(
            latents,
            conditions,
            guidance_scale=DEFAULT_GUIDANCE_SCALE if guidance_scale is None else guidance_scale,
            draws=draws,
            callback=callback,
        )

    def session(self) -> Session:
        """A session with an arena of its own, over the shared engines. It serves one thread at a time."""
        if self._closed:
            raise InputError("this runtime is closed", where=self.bundle.path, mend="load the bundle again")
        session = Session(self.plan, self._engines)
        if self._options.memory == "fast":
            session.warm_up()
        return session

    def as_unet(self) -> HostedDenoiser:
        """A drop-in for ``pipe.unet`` (or ``pipe.transformer``) of a diffusers pipeline that keeps its own
        scheduler.
        """
        from dipgo_compile.hosted import HostedDenoiser

        return HostedDenoiser(self.session())

    def close(self) -> None:
        """Let go of engines and arenas; sessions handed out stay usable. Closing twice is harmless."""
        self._closed = True
        self._engines = {}
        self._local = threading.local()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _own_session(self) -> Session:
        """This thread's session, so that a thread's second image finds its memory warm."""
        session: Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = self.session()
        return session
