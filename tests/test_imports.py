"""A machine that only runs bundles has numpy and an ONNX Runtime: nothing else may be imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "onnxruntime",
    "openvino",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "diffusers",
    "transformers",
    "jsonschema",
    "rich",
    "tokenizers",
    "PIL",
)
RUN_ONLY = tuple(name for name in HEAVY if name != "onnxruntime")


def imported(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has imported after ``code``."""
    program = (
        f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def command(*arguments: str) -> str:
    return f"from dipgo_compile.cli import main\nmain({list(arguments)!r}, standalone_mode=False)"


@pytest.mark.parametrize(
    "code",
    [
        "import dipgo_compile",
        "import dipgo_compile.cli",
        command("--help"),
        command("--version"),
        command("build", "--help"),
        command("generate", "--help"),
        command("tokenize", "--help"),
    ],
)
def test_light(code: str) -> None:
    assert not imported(code) & set(HEAVY)


def test_runtime_needs_numpy_and_onnxruntime_only() -> None:
    found = imported("from dipgo_compile import Runtime\nimport dipgo_compile.backends.onnxruntime")
    assert "onnxruntime" in found
    assert not found & set(RUN_ONLY)
