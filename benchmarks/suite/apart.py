"""Work in processes that give their memory back: an export of Stable Diffusion 1.5 takes gigabytes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from dipgo_compile.errors import BackendError, DipgoError


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Work in a process of its own. Raises what ``submit`` raises."""
    with process() as pool:
        return submit(pool, work, *arguments)


def process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def submit(pool: ProcessPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Any:
    """Work in the pool's process. Raises a DipgoError, whatever ended it: a suite runs for hours, and the
    other cases are worth having.
    """
    try:
        return pool.submit(work, *arguments).result()
    except DipgoError:
        raise
    except Exception as error:  # also a process that was killed for its memory
        raise BackendError(f"{type(error).__name__}: {error}") from error
