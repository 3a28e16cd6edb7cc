"""dipgo-compile: diffusion models pruned by DiP-GO, compiled to static ONNX Runtime plans.

Importing this package is light: neither torch nor onnxruntime is loaded until a name that needs it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Mask", "Runtime", "__version__"]

if TYPE_CHECKING:
    from dipgo_compile.mask import Mask
    from dipgo_compile.runtime import Runtime


def __getattr__(name: str) -> Any:
    if name == "Runtime":
        from dipgo_compile.runtime import Runtime

        return Runtime
    if name == "Mask":
        from dipgo_compile.mask import Mask

        return Mask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
