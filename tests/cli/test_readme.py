"""The README's example is run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from dipgo_compile.cli import COMMANDS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_python_example(repository: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "models").symlink_to(repository / "models")  # the example runs in the root of the repository
    environment = os.environ | {"PYTHONPATH": str(repository)}
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, env=environment, check=True)
    with Image.open(tmp_path / "sneaker.png") as image:
        assert image.size == (32, 32)
        assert np.asarray(image).std() > 0


def test_links_and_files_exist(repository: Path) -> None:
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    named = re.findall(r"\| `([a-z_/]+\.py)` \|", README)
    assert linked and named
    missing = [path for path in linked if not (repository / path).exists()]
    missing += [path for path in named if not (repository / "dipgo_compile" / path).exists()]
    assert not missing


def test_tour_shows_every_command() -> None:
    assert set(re.findall(r"^dipgo-compile (\w+)", README, re.MULTILINE)) == set(COMMANDS)
