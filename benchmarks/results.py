"""Results as JSON files, written whole or not at all, so that a stopped benchmark leaves what it had."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dipgo_compile.errors import InputError

DIRECTORY = Path(__file__).parent / "results"


def path_of(scenario: str) -> Path:
    return DIRECTORY / f"{scenario}.json"


def read(file: Path) -> dict[str, Any] | None:
    """A result; None where there is none yet."""
    if not file.exists():
        return None
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def begin(file: Path, settings: dict[str, Any], items: str, resume: bool) -> dict[str, Any]:
    """A result without ``items``, or with ``resume`` the one there is. Raises InputError when that was
    measured with other settings.
    """
    content = read(file) if resume else None
    if content is None:
        return {"scenario": settings, items: []}
    changed = [key for key, value in settings.items() if content["scenario"].get(key) != value]
    if changed:
        raise InputError(
            f"the {items} were made with another {', '.join(changed)}",
            where=file,
            mend="start over without --resume",
        )
    return content


def write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    staging = file.with_name(f".{file.name}.{os.getpid()}")
    staging.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(staging, file)
