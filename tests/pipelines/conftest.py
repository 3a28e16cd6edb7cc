"""Whole pipelines with their exported denoisers, made once for all tests here."""

from __future__ import annotations

from functools import cache

import pytest
from whole import Whole, Wholes


@pytest.fixture(scope="session")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Wholes:
    """The whole pipeline of a kind."""
    return cache(lambda kind: Whole(kind, tmp_path_factory.mktemp("pipelines") / kind))
