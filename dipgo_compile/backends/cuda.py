"""What ONNX Runtime is told about NVIDIA GPUs, and why.

**Graphs.** A plan runs an engine with the same addresses every time it comes to the same instruction, as a
CUDA graph needs it: each bound run is captured once, under a number of its own (``gpu_graph_id``), and
replayed from then on, so that the host starts one graph instead of hundreds of kernels. ONNX Runtime refuses
sessions with nodes that its CUDA provider has no kernel for; such an engine goes without. A graph must not be
replayed by two threads at once: runs of a captured engine wait for each other.

**Memory.** Every session has an arena of its own on the device, and a copy of its weights, also of those that
another engine has: ``build --fuse atoms`` makes engines that share none. One arena for all of them, as on the
CPU, would hand memory that captured graphs still write to whoever asks next.
"""

from __future__ import annotations

from collections.abc import Mapping

GRAPH = "gpu_graph_id"
NO_GRAPH = -1


def provider_options(*, graphs: bool) -> Mapping[str, str]:
    """The options of the CUDA execution provider, as ONNX Runtime takes them."""
    return {
        "arena_extend_strategy": "kSameAsRequested",  # as on the CPU: doubling would waste half
        "cudnn_conv_algo_search": "EXHAUSTIVE",  # shapes never change: a search for each, in the first image
        "use_tf32": "0",  # fp32 means float32: TF32 has 10 bits, less than the 1e-3 that verify accepts
        "enable_cuda_graph": "1" if graphs else "0",
    }
