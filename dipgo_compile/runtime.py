"""The public face of a bundle: load it once, then denoise or draw what you like, from any thread."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
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
from dipgo_compile.running.opened import OpenedShape, Workspace
from dipgo_compile.shapes import Shape, Shapes

if TYPE_CHECKING:
    from dipgo_compile.running.hosted import HostedDenoiser

DEFAULT_GUIDANCE_SCALE = 7.5


class Runtime:
    """A loaded bundle. Threads may share it: each works in a session of its own, all use the same engines.

    A bundle may serve several shapes: so many images together, of such a size. The plan to follow is chosen
    by the shape of what is given; where nothing tells, it is ``plan``. Arguments called ``height`` and
    ``width`` are in the units that the bundle was built in: pixels, or of an ONNX file the latents.
    """

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
        options = options or LoadOptions()
        self._opened = {shape: OpenedShape(bundle.shaped(shape), backend, options) for shape in bundle.shapes}
        self._opened[bundle.plan.shape].engines()
        parts, around = bundle.plan.pipeline, pipeline_backend or backend
        self._pipeline = None if parts is None else BundlePipeline(bundle, parts, around, options)
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
        shape: Shape | str | None = None,
    ) -> Runtime:
        """Load a bundle.

        ``backend``, ``provider`` and ``precision`` override what it was built for; ``threads`` compute one
        engine together (default: the physical cores). ``memory`` is ``low``, ``balanced`` or ``fast``: see
        ``LoadOptions``. ``verify=False`` skips hashing the files, which reads those that changed since they
        were last hashed. ``cuda_graphs=False`` starts every kernel by itself on a GPU, instead of replaying
        captured runs. ``affinity`` places the threads on processors, in ONNX Runtime's form ("1,2;3-4":
        ``backends/affinity.py``). ``shape``, one of the bundle's or its name (``2x512x768``: images, height,
        width), is the one to open now and to follow where nothing else is asked for; others are opened when
        they are first used. Raises BundleError, BackendError, InputError.
        """
        options = LoadOptions(threads, memory, verify, cuda_graphs, affinity)
        bundle = open_bundle(path, verify=verify).shaped(shape)
        built = bundle.plan.target
        target = Target(provider or built.provider, precision or built.precision, backend or built.backend)
        check_bundle(built, target)
        made = make_backend(target)
        exact = made if target.precision == "fp32" else make_backend(replace(target, precision="fp32"))
        return cls(bundle, made, options, pipeline_backend=exact)

    @property
    def plan(self) -> Plan:
        """The one to follow where nothing tells the shape: the largest, or the one that was loaded for."""
        return self.bundle.plan

    @property
    def shapes(self) -> Shapes:
        """What can be asked for, the shape of ``plan`` first."""
        return self.bundle.shapes

    def denoise(
        self,
        latents: npt.ArrayLike | None = None,
        *,
        seed: int | None = None,
        images: int | None = None,
        height: int | None = None,
        width: int | None = None,
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
        in the order ``plan.interface.guidance`` says. The shape of the bundle's that is followed is that of
        the latents, or the first that fits the other arrays; ``images``, ``height`` and ``width`` narrow it
        down. ``callback`` gets the index of every denoiser call that computes anything; an exception from it
        ends the image. Raises InputError for wrong names, shapes and dtypes, naming the shapes that there
        are.
        """
        image = self.plan.interface.image_latents
        given = {} if image is None or image_latents is None else {image: image_latents}
        shape = self._shape(latents, {**conditions, **given}, images, height, width)
        plan = self._opened[shape].plan
        interface = plan.interface
        if guidance_scale is not None and interface.guidance is None:
            raise InputError(
                "a guidance scale was given, but the bundle was built without guidance",
                mend="build it with guidance, or leave the scale out",
            )
        missing = [] if latents is not None else [interface.latents]
        missing += [] if draws is not None else interface.draws
        noise = iter(_noise(plan, missing, seed))
        if latents is None:
            latents = next(noise)
        if draws is None:
            draws = list(noise)
        return self._own_session(shape).denoise(
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
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | None = None,
        callback: Callable[[int], None] | None = None,
    ) -> Array:
        """An image of each prompt: uint8 (prompts, height, width, 3), RGB.

        A prompt is text, or for class-conditional models a class by name or number. Any number of them will
        do: they are drawn as many together as the bundle was built for. Without ``height`` and ``width`` the
        size is that of ``plan``. The noise of prompt ``i`` is drawn
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
            height=height,
            width=width,
        )
        return np.stack([image.pixels for image in drawn])

    def session(
        self, *, images: int | None = None, height: int | None = None, width: int | None = None
    ) -> Session:
        """A session of one shape with an arena of its own, over the shared engines. It serves one thread at a
        time. Raises InputError for a shape that is not there.
        """
        self._check_open()
        shape = self.shapes.matching(images, height, width).all[0]
        return self._opened[shape].session()

    def as_unet(self) -> HostedDenoiser:
        """A drop-in for ``pipe.unet`` (or ``pipe.transformer``) of a diffusers pipeline that keeps its own
        scheduler. Each image may have another shape.
        """
        from dipgo_compile.running.hosted import HostedDenoiser

        self._check_open()
        workspace = Workspace(self.shapes, self._opened)
        own = workspace.session(self.plan.shape)
        return HostedDenoiser(own, workspace if len(self.shapes) > 1 else None)

    def close(self) -> None:
        """Let go of engines and arenas; sessions handed out stay usable. Closing twice is harmless."""
        self._closed = True
        self._opened = {}
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

    def _shape(
        self,
        latents: npt.ArrayLike | None,
        conditions: Mapping[str, npt.ArrayLike],
        images: int | None,
        height: int | None,
        width: int | None,
    ) -> Shape:
        """The shape that is asked for, in so many words or by that of an array."""
        self._check_open()
        asked = self.shapes.matching(images, height, width)
        if len(self.shapes) == 1:
            return asked.all[0]  # what is wrong with an array, its session says
        given = conditions if latents is None else {self.plan.interface.latents: latents}
        sizes = {name: tuple(np.shape(value)) for name, value in given.items()}
        found = [shape for shape in asked if self._takes(shape, sizes)]
        if not found:
            raise self.shapes.refusal(", ".join(f"{name} of shape {size}" for name, size in sizes.items()))
        return found[0]

    def _takes(self, shape: Shape, given: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether a shape's program reads such arrays. Names that it doesn't know are not its business."""
        plan = self._opened[shape].plan
        wanted = {name: plan.program.specs[name].shape for name in plan.program.inputs}
        wanted |= {name: plan.condition(name).shape for name in plan.interface.conditions}
        return all(wanted[name] == size for name, size in given.items() if name in wanted)

    def _own_session(self, shape: Shape) -> Session:
        """This thread's session, so that a thread's second image finds its memory warm."""
        workspace: Workspace | None = getattr(self._local, "workspace", None)
        if workspace is None:
            workspace = self._local.workspace = Workspace(self.shapes, self._opened)
        return workspace.session(shape)


def _noise(plan: Plan, names: Sequence[str], seed: int | None) -> list[Noise]:
    """Noise for some of the program's inputs, in order."""
    shapes = [plan.program.specs[name].shape for name in names]
    return image_noise(secrets.randbelow(SEEDS) if seed is None else seed, shapes)
