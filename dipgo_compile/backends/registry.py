"""Which backends there are, and what each can compute. Their packages are imported when one is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from dipgo_compile.backends.base import Backend
from dipgo_compile.errors import BackendError
from dipgo_compile.plan import Target

FLOAT16 = "fp16"  # the precision that a graph itself is of: graphs/float16.py


@dataclass(frozen=True, slots=True)
class Provider:
    """The pip extra that installs an execution provider, and the precisions it computes in."""

    extra: str
    precisions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """``package`` is what ``make`` imports; ``providers`` are by name."""

    package: str
    make: Callable[[Target], Backend]
    providers: Mapping[str, Provider]


def _onnxruntime(target: Target) -> Backend:
    from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(target.provider)


def _openvino(target: Target) -> Backend:
    from dipgo_compile.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(target.precision)


BACKENDS: Mapping[str, BackendEntry] = {
    "onnxruntime": BackendEntry(
        "onnxruntime",
        _onnxruntime,
        {"cpu": Provider("cpu", ("fp32",)), "cuda": Provider("cuda", ("fp32", "fp16"))},
    ),
    "openvino": BackendEntry("openvino", _openvino, {"cpu": Provider("openvino", ("fp32", "bf16"))}),
}


def check_target(target: Target) -> Provider:
    """The provider of a target that a backend can compute for, installed here or not. Raises BackendError,
    naming the first of backend, provider and precision that does not exist.
    """
    entry = BACKENDS.get(target.backend)
    if entry is None:
        raise BackendError(f"unknown backend {target.backend!r}", available=BACKENDS)
    provider = entry.providers.get(target.provider)
    if provider is None:
        raise BackendError(
            f"the backend {target.backend} has no execution provider {target.provider!r}",
            available=entry.providers,
            mend=_who_offers(target.provider),
        )
    if target.precision not in provider.precisions:
        raise BackendError(
            f"the backend {target.backend} does not compute in {target.precision!r} on {target.provider}",
            available=provider.precisions,
            mend=_who_offers(target.provider, target.precision) or _where_else(target.precision),
        )
    return provider


def check_bundle(built: Target, target: Target) -> None:
    """Whether what was compiled for one target can be loaded for another. Raises BackendError: graphs are of
    float16 or of float32, and a backend computes what they say; other precisions are the backend's affair.
    """
    check_target(target)
    if (built.precision == FLOAT16) == (target.precision == FLOAT16):
        return
    raise BackendError(
        f"the bundle's graphs are built for {built.precision}: they cannot be loaded for {target.precision}",
        mend=f"build it with --precision {target.precision}",
    )


def make_backend(target: Target) -> Backend:
    """The backend of a target. Raises BackendError for what is unknown, not installed, or not offered by this
    machine.
    """
    provider, entry = check_target(target), BACKENDS[target.backend]
    if find_spec(entry.package) is None:
        raise BackendError(
            f"the package {entry.package} is not installed",
            available=[name for name, other in BACKENDS.items() if find_spec(other.package) is not None],
            mend=f'pip install "dipgo-compile[{provider.extra}]", or choose a backend that is installed',
        )
    return entry.make(target)


def _who_offers(provider: str, precision: str | None = None) -> str | None:
    found = [
        f'"{name}" (pip install "dipgo-compile[{offered.extra}]")'
        for name, entry in BACKENDS.items()
        if (offered := entry.providers.get(provider)) and precision in (None, *offered.precisions)
    ]
    return f"use the backend {' or '.join(found)}" if found else None


def _where_else(precision: str) -> str | None:
    found = [
        f'{provider} with the backend "{name}"'
        for name, entry in BACKENDS.items()
        for provider, offered in entry.providers.items()
        if precision in offered.precisions
    ]
    return f"{precision} is for {' or '.join(found)}" if found else None
