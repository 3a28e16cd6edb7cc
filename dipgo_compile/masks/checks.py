"""What makes a mask unusable, said so that its maker can mend it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipgo_compile.errors import MaskError

if TYPE_CHECKING:
    from dipgo_compile.mask import Keep, ModelRef
    from dipgo_compile.models import Denoiser


def schema_text(name: str) -> str:
    """A JSON Schema by file name: in an installed package beside this module, in a checkout one level up."""
    package = Path(__file__).parents[1]
    packaged = package / "schema" / name
    return (packaged if packaged.exists() else package.parent / "schema" / name).read_text("utf-8")


def check_document(document: Any, name: str, version: int) -> None:
    """Refuse a parsed JSON document that isn't a mask of this version."""
    if not isinstance(document, dict) or document.get("format") != name:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise MaskError(f"not a mask: the format is {found!r}", where="format", available=(name,))
    if document.get("version") != version:
        raise MaskError(
            f"version {document.get('version')!r} of the mask format is unknown",
            where="version",
            available=(version,),
            mend="update dipgo-compile, or write the mask with this version",
        )
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    validator = Draft202012Validator(json.loads(schema_text("mask.schema.json")))
    error = best_match(validator.iter_errors(document))
    if error is not None:
        raise MaskError(error.message, where=error.json_path.removeprefix("$.").replace("$", "the document"))


def check_blocks(blocks: tuple[str, ...]) -> None:
    """Refuse no blocks, repeated blocks and blocks inside each other."""
    if not blocks:
        raise MaskError("the mask names no blocks", where="blocks")
    seen: set[str] = set()
    for block in blocks:
        if block in seen:
            raise MaskError(f"block {block!r} is listed twice", where="blocks")
        seen.add(block)
    for block in blocks:
        outer = next((other for other in blocks if block.startswith(f"{other}.")), None)
        if outer is not None:
            raise MaskError(
                f"block {block!r} lies inside block {outer!r}", where="blocks", mend="list one of the two"
            )


def check_keep(keep: Keep, blocks: tuple[str, ...], calls: int) -> None:
    """Refuse rows that fit neither calls nor blocks, and a first call that isn't whole."""
    if len(keep) != calls:
        raise MaskError(
            f"{len(keep)} rows for {calls} timesteps", where="keep", mend="give one row per denoiser call"
        )
    for call, row in enumerate(keep):
        if len(row) != len(blocks):
            raise MaskError(
                f"{len(row)} characters for {len(blocks)} blocks", where=f"keep[{call}]", available=blocks
            )
    if keep and not all(keep[0]):
        reused = [block for block, kept in zip(blocks, keep[0], strict=True) if not kept]
        raise MaskError(
            f"the first call reuses {', '.join(reused)}, but nothing was computed before it",
            where="keep[0]",
            mend="make the first row all ones",
        )


def check_model(made_for: ModelRef, model: Denoiser) -> None:
    """Refuse a mask for another architecture."""
    if made_for.class_name != model.class_name:
        raise MaskError(
            f"the mask is for a {made_for.class_name}, not for {model.source}",
            where="model.class",
            available=(model.class_name,),
            mend=f"use the mask with {made_for.source}, or a mask made for {model.source}",
        )
    if made_for.config_sha256 != model.config_sha256:
        raise MaskError(
            f"the mask is for another configuration of {model.class_name} than that of {model.source}",
            where=f"model.config_sha256 = {made_for.config_sha256}",
            available=(model.config_sha256,),
            mend=f"use the mask with {made_for.source}, or a mask made for {model.source}",
        )


def check_scopes(blocks: tuple[str, ...], scopes: Sequence[str]) -> None:
    """Refuse names the denoiser doesn't have, and an order other than that of execution."""
    position = {scope: index for index, scope in enumerate(scopes)}
    for block in blocks:
        if block not in position:
            raise unknown_block(block, scopes)
    ordered = tuple(sorted(blocks, key=position.__getitem__))
    if ordered != blocks:
        index = next(i for i, (mine, due) in enumerate(zip(blocks, ordered, strict=True)) if mine != due)
        raise MaskError(
            f"the blocks are not in execution order: {blocks[index]!r} where {ordered[index]!r} is due",
            where=f"blocks[{index}]",
            available=ordered,
            mend="reorder the blocks, and the characters of each row of keep with them",
        )


def check_complete(
    blocks: tuple[str, ...], pattern: str | None, model: Denoiser, scopes: Sequence[str]
) -> None:
    """Refuse a mask that lists some but not all blocks of a granularity, or of the pattern they match."""
    from dipgo_compile.models.base import GRANULARITIES

    if pattern is not None and pattern not in GRANULARITIES:
        whole = matching_scopes(pattern, scopes)
        _refuse_missing(blocks, whole, f"the pattern {pattern!r}")
        return
    for granularity in GRANULARITIES:
        whole = model.family.blocks(model.config, scopes, granularity)
        if set(blocks) <= set(whole):
            _refuse_missing(blocks, whole, f"the granularity {granularity!r}")


def matching_scopes(pattern: str, scopes: Sequence[str]) -> tuple[str, ...]:
    """The scopes that a regular expression matches whole, at least one. Raises MaskError."""
    try:
        matched = tuple(scope for scope in scopes if re.fullmatch(pattern, scope))
    except re.error as error:
        raise MaskError(
            f"{pattern!r} is not a regular expression: {error}",
            where="blocks",
            mend="put a backslash before what is meant literally",
        ) from error
    if not matched:
        raise MaskError(
            f"no module scope matches {pattern!r} whole",
            where="blocks",
            available=tuple(scopes)[:20],
            mend="match full scope names, such as 'transformer_blocks.7.ff'",
        )
    return matched


def _refuse_missing(blocks: tuple[str, ...], whole: tuple[str, ...], kind: str) -> None:
    missing = [scope for scope in whole if scope not in blocks]
    if missing:
        raise MaskError(
            f"{kind} has blocks that the mask leaves out: {', '.join(missing)}",
            where="blocks",
            available=whole,
            mend="list them all, or put the regular expression that chose the blocks into provenance.blocks",
        )


def unknown_block(block: str, known: Iterable[str]) -> MaskError:
    """The error for a block that isn't there, with the nearest names that are."""
    names = tuple(known)
    close = difflib.get_close_matches(block, names, n=3)
    return MaskError(
        f"the model has no block {block!r}",
        where="blocks",
        available=close or names[:20],
        mend=f"did you mean {close[0]!r}?" if close else "use module scopes of the denoiser",
    )


def no_residual(blocks: Sequence[str]) -> MaskError:
    """The error for blocks whose output minus input doesn't exist."""
    return MaskError(
        "reuse 'residual' needs blocks that answer with one tensor of their input's shape: "
        f"{len(blocks)} of these blocks do not",
        where=", ".join(blocks[:5]) + (", ..." if len(blocks) > 5 else ""),
        mend="use reuse 'output', or choose blocks that keep the shape, as transformer blocks do",
    )
