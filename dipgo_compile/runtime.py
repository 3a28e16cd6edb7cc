"""The public face of a bundle: load it once, then denoise or draw what you like, from any thread."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dipgo_compile.backends.base import Backend, LoadOptions
from dipgo_compile.backends.registry import check_bundle, make_backend
from dipgo_compile.bundle import Bundle, open_bundle
from dipgo_compile.drawing.bundled import BundlePipeline
from dipgo_compile.drawing.draw import Job, draw
from dipgo_compile.drawing.noise import SEEDS, Noise, image_noise
from dipgo_compile.errors import InputError
from dipgo_compile.executor import Session
from dipgo_compile.plan import Plan, Target
from dipgo_compile.program import Array

if TYPE_CHECKING:
    from dipgo_compile.hosted import HostedDenoiser

DEFAULT_GUIDANCE_SCALE = 7.5


class Runtime:
    """A loaded bundle. Threads may share it: each works in a session of its own, all use the same engines."""

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        options: LoadOptions | None = None,
        *,
        pipeline_backend: Backend | None = None,
    ) -> None:
        """``pipeline_backend`` computes what surrounds the loop; by default the same as the loop."""
        self.bundle = bundle
        self._options = options or LoadOptions()
        self._memory = backend.memory
        self._engines = backend.open(bundle, self._options)
        parts, around = bundle.plan.pipeline, pipeline_backend or backend
        self._pipeline = None if parts is None else BundlePipeline(bundle, parts, around, self._options)
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
        cuda_graphs: bool = True,
        affinity: str | None = None,
    ) -> Runtime:
        """Load a bundle.

        ``backend``, ``provider`` and ``precision`` override what it was built for; ``threads`` compute one
        engine together (default: the physical cores). ``memory`` is ``low``, ``balanced`` or ``fast``: see
        ``LoadOptions``. ``verify=False`` skips hashing the files, which reads those that changed since they
        were last hashed. ``cuda_graphs=False`` starts every kernel by itself on a GPU, instead of replaying
        captured runs. ``affinity`` places the threads on processors, in ONNX Runtime's form ("1,2;3-4":
        ``backends/affinity.py``). Raises BundleError, BackendError, InputError.
        """
        options = LoadOptions(threads, memory, verify, cuda_graphs, affinity)
        bundle = open_bundle(path, verify=verify)
        built = bundle.plan.target
        target = Target(provider or built.provider, precision or built.precision, backend or built.backend)
        check_bundle(built, target)
        made = make_backend(target)
        exact = made if target.precision == "fp32" else make_backend(replace(target, precision="fp32"))
        return cls(bundle, made, options, pipeline_backend=exact)

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
        image_latents: npt.ArrayLike | None = None,
        callback: Callable[[int], None] | None = None,
        **conditions: npt.ArrayLike,
    ) -> Array:
        """The final latents, float32 of shape (batch, channels, height, width), before the image decoder's
        scaling.

        ``latents`` is the initial noise, of unit variance; ``draws`` the noise a stochastic scheduler adds.
        What is not given is drawn from ``seed`` (None: anew each time), for image ``i`` from ``seed + i``, as
        a diffusers pipeline draws it (``drawing/noise.py``). ``image_latents`` is what an image-to-image
        bundle begins with: the image encoder's latents, scaled as the final ones are. ``guidance_scale`` is
        7.5 unless given; ``conditions`` are the denoiser's own keywords, such as ``encoder_hidden_states``,
        in the order ``plan.interface.guidance`` says. ``callback`` gets the index of every denoiser call that
        computes anything; an exception from it ends the image. Raises InputError for wrong names, shapes and
        dtypes.
        """
        interface = self.plan.interface
        if guidance_scale is not None and interface.guidance is None:
            raise InputError(
                "a guidance scale was given, but the bundle was built without guidance",
                mend="build it with guidance, or leave the scale out",
            )
        missing = [] if latents is not None else [interface.latents]
        missing += [] if draws is not None else interface.draws
        noise = iter(self._noise(missing, seed))
        if latents is None:
            latents = next(noise)
        if draws is None:
            draws = list(noise)
        return self._own_session().denoise(
            latents,
            conditions,
            guidance_scale=DEFAULT_GUIDANCE_SCALE if guidance_scale is None else guidance_scale,
            draws=draws,
            image_latents=image_latents,
            callback=callback,
        )

    @property
    def pipeline(self) -> BundlePipeline:
        """What surrounds the denoising loop: tokenizer, text encoder and image decoder. Nothing is opened
        before it is used. Raises InputError for a bundle that was built without them.
        """
        self._check_open()
        if self._pipeline is None:
            raise InputError(
                "the bundle has the denoising loop alone: no text encoder and no image decoder",
                where=self.bundle.path,
                mend="build it with --pipeline, or bring your own and call Runtime.denoise",
            )
        return self._pipeline

    def encode(self, input_ids: npt.ArrayLike) -> dict[str, Array]:
        """Conditions for ``denoise`` from token ids: int64 (samples, length), under guidance both halves in
        the order of ``plan.interface.guidance``. For bundles with their pipeline; raises InputError.
        """
        return self.pipeline.encode(input_ids)

    def decode(self, latents: npt.ArrayLike) -> Array:
        """The images of final latents: uint8 (images, height, width, 3), RGB. For bundles with their
        pipeline; raises InputError.
        """
        return self.pipeline.decode(latents)

    def draw(
        self,
        prompts: str | Sequence[str],
        *,
        negative_prompt: str = "",
        seed: int | None = None,
        guidance_scale: float | None = None,
        callback: Callable[[int], None] | None = None,
    ) -> Array:
        """An image of each prompt: uint8 (prompts, height, width, 3), RGB.

        A prompt is text, or for class-conditional models a class by name or number. Any number of them will
        do: they are drawn as many together as the bundle was built for. The noise of prompt ``i`` is drawn
        from ``seed + i`` (None: anew each time). ``guidance_scale`` is the bundle's own unless given;
        ``callback`` as in ``denoise``. For bundles with their pipeline; raises InputError.
        """
        first = secrets.randbelow(SEEDS) if seed is None else seed
        texts = [prompts] if isinstance(prompts, str) else prompts
        jobs = [Job(prompt, first + index) for index, prompt in enumerate(texts)]
        if not jobs:
            raise InputError("there is nothing to draw", mend="pass a prompt")
        if guidance_scale is None and self.plan.interface.guidance is not None:
            guidance_scale = self.pipeline.parts.guidance_scale
        drawn = draw(
            self,
            self.pipeline,
            jobs,
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            callback=callback,
        )
        return np.stack([image.pixels for image in drawn])

    def session(self) -> Session:
        """A session with an arena of its own, over the shared engines. It serves one thread at a time."""
        self._check_open()
        session = Session(self.plan, self._engines, self._memory())
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
        self._pipeline = None
        self._local = threading.local()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this runtime is closed", where=self.bundle.path, mend="load the bundle again")

    def _noise(self, names: Sequence[str], seed: int | None) -> list[Noise]:
        """Noise for some of the program's inputs, in order."""
        shapes = [self.plan.program.specs[name].shape for name in names]
        return image_noise(secrets.randbelow(SEEDS) if seed is None else seed, shapes)

    def _own_session(self) -> Session:
        """This thread's session, so that a thread's second image finds its memory warm."""
        session: Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = self.session()
        return session
