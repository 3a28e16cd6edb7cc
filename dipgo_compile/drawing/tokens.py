"""Text to token ids, with the tokenizer of a bundle. Takes the package ``tokenizers``, and nothing that
computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dipgo_compile.bundle import REBUILD, Bundle
from dipgo_compile.errors import BundleError, DipgoError, InputError
from dipgo_compile.plan import Plan

Ids = npt.NDArray[np.int64]


class PromptTokenizer:
    """The tokenizer of a bundle that was built with its pipeline. Threads may share it."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises InputError for a bundle without a tokenizer, BundleError for one that can't be read,
        DipgoError where the package ``tokenizers`` is not installed.
        """
        self._plan = bundle.plan
        parts = bundle.plan.pipeline
        if parts is None or parts.tokenizer is None:
            raise InputError(
                "the bundle has no tokenizer",
                where=bundle.path,
                available=() if parts is None else parts.files,
                mend="build it with --pipeline"
                if parts is None
                else "its condition is a class: pass the class's number",
            )
        self._file = bundle.path / parts.tokenizer.file
        self._length = parts.tokenizer.length
        self._tokenizer = self._open()

    def __call__(self, prompts: Sequence[str]) -> Ids:
        """The ids of each prompt, int64 (prompts, length): begun, cut, ended and padded."""
        encoded = [self._tokenizer.encode(prompt).ids for prompt in prompts]
        if any(len(ids) != self._length for ids in encoded):
            raise BundleError(
                f"the tokenizer does not give {self._length} ids a prompt", where=self._file, mend=REBUILD
            )
        return np.array(encoded, np.int64).reshape(len(prompts), self._length)

    def input_ids(self, prompts: Sequence[str], negative_prompt: str = "") -> Ids:
        """What the text encoder reads for one prompt an image: a row for each sample of the denoiser, under
        guidance both halves in the order of ``plan.interface.guidance``.
        """
        texts = {"cond": list(prompts), "uncond": [negative_prompt] * len(prompts)}
        return self([text for half in halves(self._plan) for text in texts[half]])

    def _open(self) -> Any:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise DipgoError(
                "turning text into token ids takes the package tokenizers, which is not installed",
                mend='pip install "dipgo-compile[text]", or pass token ids to Runtime.encode',
            ) from None
        try:
            return Tokenizer.from_file(str(self._file))
        except Exception as error:  # tokenizers raises plain Exceptions
            raise BundleError(
                f"the tokenizer cannot be read: {error}", where=self._file, mend=REBUILD
            ) from error


def halves(plan: Plan) -> tuple[str, ...]:
    """The parts of a batch, in order: ``cond`` alone without guidance."""
    return plan.interface.guidance or ("cond",)
