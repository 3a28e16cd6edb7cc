"""What is measured. A scenario has all that its result depends on, besides the machine."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class SpeedScenario:
    """A mask's plan against the unpruned denoiser, image by image."""

    name: str
    about: str
    mask: str
    versus: tuple[str, ...]
    repeats: int


@dataclass(frozen=True)
class OverheadScenario:
    """What both runtimes need beside ONNX Runtime. ``goals``: microseconds an instruction, by row.

    ``repeats`` images are timed in each of ``rounds`` processes of a row.
    """

    name: str
    about: str
    mask: str
    repeats: int
    rounds: int
    goals: tuple[tuple[str, float], ...]
    threads: int = 1


@dataclass(frozen=True)
class QualityScenario:
    """A mask's images against those of other ways to spend as little.

    ``random_masks``: how many seeds. ``deepcache_interval``: calls from one whole call to the next; None
    leaves DeepCache out, which needs a UNet. ``residual_mask``: one that was trained to reuse residuals.
    ``guidance_scale``: None is what the mask was trained with. Images are balanced over the ten classes;
    every row starts from the same noise and conditions.
    """

    name: str
    about: str
    mask: str
    images: int
    random_masks: int
    deepcache_interval: int | None = None
    residual_mask: str | None = None
    guidance_scale: float | None = None


@dataclass(frozen=True)
class Turn:
    """Rows that are alive together and take turns, sample by sample, after a warm-up: ``repeats`` samples of
    each, or ``quick_repeats`` in a quick run; 0 leaves the turn out of it.
    """

    rows: tuple[str, ...]
    repeats: int = 3
    quick_repeats: int = 2


@dataclass(frozen=True)
class Subject:
    """A model, and the images' height and width; ``quick_pixels`` in a quick run, where they differ."""

    model: str
    pixels: int
    quick_pixels: int | None = None

    def quick(self) -> Subject:
        return Subject(self.model, self.quick_pixels or self.pixels)


@dataclass(frozen=True)
class Case:
    """A bundle and the rows it is timed beside.

    ``mask`` is what ``mask_rules.make`` takes. The row ``dense`` of a case runs in the case's backend,
    execution provider and precision; with the provider ``cuda``, PyTorch's rows run on the GPU, too.
    ``footprint``: also measure loading, memory and size on disk. ``profile``: also measure what each block
    takes alone, which tells how far seconds follow multiply-accumulates, and what each kind of operator
    takes. ``quick``: part of a quick run. ``subject``: None is the scenario's. ``split_guidance``: the plan
    computes the halves of a guided batch one after the other.
    """

    name: str
    about: str
    mask: str
    turns: tuple[Turn, ...]
    fuse: bool = True
    backend: str = "onnxruntime"
    precision: str = "fp32"
    provider: str = "cpu"
    footprint: bool = False
    profile: bool = False
    quick: bool = True
    subject: Subject | None = None
    split_guidance: bool = False


@dataclass(frozen=True)
class SuiteScenario:
    """Many masks and peers on one architecture and image size, or on those that the cases name, with goals.

    ``steps`` of the masks that are made by rule. ``timed_calls``: rows whose calls all cost the same are
    timed for so many of them, and their time for an image is that of a call times the calls.
    """

    name: str
    about: str
    model: str | None
    pixels: int | None
    cases: tuple[Case, ...]
    steps: int = 50
    timed_calls: int = 3

    def subject(self, case: Case) -> Subject:
        if case.subject is not None:
            return case.subject
        assert self.model is not None and self.pixels is not None  # or every case has its own
        return Subject(self.model, self.pixels)


TINY_SD_MASK = "models/tiny-sd/masks/ddim50_0.80.json"
TINY_DIT_MASK = "models/tiny-dit/masks/ddim50_0.60.json"

MASKS = "benchmarks/masks"
RELEASED = f"{MASKS}/sd15_ddim50_released_0.80.json"
PLAN_AND_DENSE = Turn(("plan", "dense"))
MEMORY_MODES = Turn(("plan", "plan-low", "plan-fast"), quick_repeats=0)  # the first is balanced

# Three processes with the weights of Stable Diffusion 1.5 fit into 24 GiB; four may not.
SD15_CASES = (
    Case(
        "all-ones",
        "every block at every call",
        "all",
        (Turn(("plan", "dense", "torch")), Turn(("dense", "torch-compile"), repeats=2)),
    ),
    Case(
        "all-ones-unfused",
        "the same, one engine a block",
        "all",
        (Turn(("plan", "dense"), repeats=2),),
        fuse=False,
        quick=False,
    ),
    Case(
        "released-0.80",
        "the mask that DiP-GO's authors released",
        RELEASED,
        (Turn(("plan", "dense", "supernet"), repeats=2), MEMORY_MODES),
        footprint=True,
        profile=True,
    ),
    Case(
        "released-0.80-unfused",
        "the same, one engine a block",
        RELEASED,
        (Turn(("plan", "dense"), repeats=2),),
        fuse=False,
        quick=False,
    ),
    Case(
        "released-0.80-split",
        "the same mask, split guidance",
        RELEASED,
        (Turn(("plan", "dense"), repeats=2),),
        footprint=True,
        quick=False,
        split_guidance=True,
    ),
    Case(
        "layer-0.5",
        "random layers, half of the MACs",
        f"{MASKS}/sd15_ddim50_layer_0.5.json",
        (Turn(("plan", "dense"), repeats=2),),
        profile=True,
        quick=False,
    ),
    Case(
        "layer-0.3",
        "random layers, 0.3 of the MACs",
        f"{MASKS}/sd15_ddim50_layer_0.3.json",
        (Turn(("plan", "dense"), repeats=2),),
        profile=True,
    ),
    Case(
        "deepcache-5",
        "DeepCache, interval 5, branch 0",
        "deepcache",
        (Turn(("plan", "dense", "deepcache"), repeats=2),),
        profile=True,
    ),
    Case(
        "released-0.80-openvino-bf16",
        "the released mask in OpenVINO, bf16",
        RELEASED,
        (PLAN_AND_DENSE,),
        backend="openvino",
        precision="bf16",
    ),
    Case(
        "all-ones-openvino",
        "every block at every call in OpenVINO, fp32",
        "all",
        (PLAN_AND_DENSE,),
        backend="openvino",
        quick=False,
    ),
)

# On a GPU. Nothing of it has been measured yet.
CUDA_CASES = tuple(
    Case(
        f"cuda-{name}",
        f"{about}, on a GPU in fp16",
        mask,
        turns,
        precision="fp16",
        provider="cuda",
        footprint=large,
    )
    for name, about, mask, turns, large in (
        (
            "all-ones",
            "every block at every call",
            "all",
            (Turn(("plan", "dense", "torch")), Turn(("dense", "torch-compile"))),
            False,
        ),
        (
            "released-0.80",
            "the mask that DiP-GO's authors released",
            RELEASED,
            (Turn(("plan", "dense", "supernet")), Turn(("plan", "supernet-compile", "torch-compile"))),
            True,
        ),
    )
)

FAMILIES = "families"
FAMILY_STEPS = 20
FAMILY_REPEATS = 5  # in quick runs, too: what they look for is one part in a hundred


def _family(subject: Subject, kept: float, blocks: str) -> tuple[Case, Case]:
    """An unpruned plan and a mask for a preset."""
    turns = (Turn(("plan", "dense"), FAMILY_REPEATS, quick_repeats=FAMILY_REPEATS),)
    name = subject.model.removeprefix("random:")
    mask = f"{MASKS}/{name}_ddim{FAMILY_STEPS}_{blocks}_{kept}.json"
    about = {"layer": "random layers", "residual": "random blocks, residual reuse"}[blocks]
    return (
        Case(f"{name}-all-ones", "every block at every call", "all", turns, subject=subject),
        Case(
            f"{name}-{blocks}-{kept}",
            f"{about}, {kept} of the MACs",
            mask,
            turns,
            footprint=name == "dit-xl-2",
            subject=subject,
        ),
    )


# Those whose plan and whole graph are in 24 GiB together: Stable Diffusion XL's weights alone are 10.3 GB.
FAMILY_CASES = (
    *_family(Subject("random:bk-sdm-small", 512, quick_pixels=256), 0.3, "layer"),
    *_family(Subject("random:bk-sdm-base", 512, quick_pixels=256), 0.3, "layer"),
    *_family(Subject("random:sd21", 512, quick_pixels=256), 0.3, "layer"),
    *_family(Subject("random:dit-xl-2", 256), 0.4, "residual"),
    *_family(Subject("random:pixart-alpha-512", 512), 0.4, "residual"),
)

TINY_SD_QUALITY = QualityScenario(
    name="quality",
    about="images of tiny-sd's trained mask, and of other ways to spend as few MACs",
    mask=TINY_SD_MASK,
    images=2000,
    random_masks=5,
    deepcache_interval=5,
)

SCENARIOS: tuple[SpeedScenario | QualityScenario | SuiteScenario | OverheadScenario, ...] = (
    SuiteScenario(
        name="sd15-512",
        about="Stable Diffusion 1.5's UNet at 512x512, random weights",
        model="random:sd15",
        pixels=512,
        cases=SD15_CASES,
    ),
    SuiteScenario(
        name="sd15-512-cuda",
        about="the same on an NVIDIA GPU, in fp16",
        model="random:sd15",
        pixels=512,
        cases=CUDA_CASES,
    ),
    SuiteScenario(
        name="sd15-256",
        about="Stable Diffusion 1.5's UNet at 256x256, random weights",
        model="random:sd15",
        pixels=256,
        cases=SD15_CASES,
    ),
    SuiteScenario(
        name=FAMILIES,
        about="published architectures, unpruned and pruned, random weights",
        model=None,
        pixels=None,
        cases=FAMILY_CASES,
        steps=FAMILY_STEPS,
    ),
    SpeedScenario(
        name="tiny-sd",
        about="speed of tiny-sd's trained mask",
        mask=TINY_SD_MASK,
        versus=("dense", "torch", "supernet"),
        repeats=20,
    ),
    OverheadScenario(
        name="overhead",
        about="what the runtimes cost around ONNX Runtime, on tiny-sd's trained mask",
        mask=TINY_SD_MASK,
        repeats=30,
        rounds=5,
        goals=(("c++", 10.0), ("python", 100.0)),
    ),
    TINY_SD_QUALITY,
    replace(
        TINY_SD_QUALITY,
        name="quality-guidance-3",
        about="the same with a guidance scale of 3: more images of the class asked for, less varied",
        guidance_scale=3.0,
    ),
    QualityScenario(
        name="quality-dit",
        about="images of tiny-dit's trained mask, and of other ways to spend as few MACs",
        mask=TINY_DIT_MASK,
        images=1000,
        random_masks=3,
        residual_mask="models/tiny-dit/masks/ddim50_0.60_residual.json",
    ),
    QualityScenario(
        name="quality-dit-250",
        about="the same of the mask that was trained for 250 steps",
        mask="models/tiny-dit/masks/ddim250_0.60.json",
        images=500,  # each takes five times as long
        random_masks=1,
    ),
)
