"""Shared by all tests: only what more than one directory needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the operators are small: more threads only wait for each other

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout; ``models/tiny-sd`` is in it."""
    return REPOSITORY
