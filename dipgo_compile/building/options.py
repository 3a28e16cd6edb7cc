"""What a bundle is compiled for: everything that a build can be told."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dipgo_compile.backends.registry import check_target
from dipgo_compile.errors import InputError
from dipgo_compile.passes.fuse import MAX_ENGINES
from dipgo_compile.plan import Target
from dipgo_compile.shapes import Size, check_distinct


@dataclass(frozen=True)
class BuildOptions:
    """What a bundle is compiled for.

    ``images`` are denoised together; ``height`` and ``width`` are pixels, those of an ONNX file the latents'
    (None: the model's own size). ``batches`` and ``sizes``, (height, width) each, take their places for a
    bundle that serves several shapes: every number of images in every size. With ``guidance`` the denoiser
    runs on twice as many samples, and the guidance scale stays a run-time number; None: where the model knows
    the order of the two halves, and wasn't distilled to read the scale.
    ``split_guidance`` computes those halves one after the other, with engines for half the batch: less memory
    for activations, and half the work at a guidance scale of 1.
    ``start_step`` makes an image-to-image bundle, which begins with that inference step: see ``begun``.
    ``fuse`` and ``max_engines`` say how runs become engines (``passes/fuse.py``). ``disabled`` names
    passes and rewrites to leave out, for bisecting a wrong result. ``provider``, ``precision`` and
    ``backend`` make the target: see ``backends/registry.py``, whose BackendError refuses what no backend
    offers. With ``pipeline`` the bundle gets the text encoder, the tokenizer and the image decoder too
    (``drawing/surroundings.py``).
    """

    images: int = 1
    height: int | None = None
    width: int | None = None
    batches: tuple[int, ...] = ()
    sizes: tuple[Size, ...] = ()
    guidance: bool | None = None
    split_guidance: bool = False
    start_step: int | None = None
    fuse: str = "auto"
    max_engines: int = MAX_ENGINES
    disabled: tuple[str, ...] = ()
    provider: str = "cpu"
    precision: str = "fp32"
    backend: str = "onnxruntime"
    pipeline: bool = False

    def __post_init__(self) -> None:
        check_target(self.target)
        if self.sizes and (self.height or self.width):
            raise InputError(
                "sizes are given, and a height or a width", mend="put all of them into the sizes"
            )
        check_distinct([(one.images, one.height, one.width) for one in self.each()])

    @property
    def target(self) -> Target:
        return Target(self.provider, self.precision, self.backend)

    def each(self) -> tuple[BuildOptions, ...]:
        """The same options for each of the shapes alone."""
        if not self.batches and not self.sizes:
            return (self,)
        return tuple(
            replace(self, images=images, height=height, width=width, batches=(), sizes=())
            for height, width in self.sizes or ((self.height, self.width),)
            for images in self.batches or (self.images,)
        )
