from __future__ import annotations

from collections.abc import Callable

from click.testing import Result

STEPS = 3
"""Denoising steps of the masks in these tests."""

Invoke = Callable[..., Result]
"""Calls ``dipgo-compile`` with arguments."""
