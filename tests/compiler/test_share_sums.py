"""share_sums on programs of sums alone; test_residual.py holds whole denoisers."""

from __future__ import annotations

import pytest

from dipgo_compile.passes.share_sums import ShareSums
from dipgo_compile.program import Call, Coefficient, Combine, Engine, Program, Run, TensorSpec, Term
from dipgo_compile.verifier import verify_program

SPEC = TensorSpec("float32", (2, 3))


def sum_of(text: str) -> Combine:
    """From ``s = +a -b``."""
    output, _, terms = text.partition(" = ")
    signs = {"+": 1.0, "-": -1.0}
    return Combine(tuple(Term(t[1:], Coefficient(signs[t[0]])) for t in terms.split()), output)


def program_of(*sums: str, unread: str | None = None) -> Program:
    """A call that computes ``a`` to ``f`` and reads all these sums, except ``unread``."""
    combines = tuple(map(sum_of, sums))
    read = tuple(combine.output for combine in combines if combine.output != unread)
    values = tuple("abcdef")
    program = Program(
        engines=(
            Engine("blocks", ("blocks",), ("sample",), values),
            Engine("head", ("head",), read, ("noise_pred",)),
        ),
        specs=dict.fromkeys(
            ("latents", *values, *(sum.output for sum in combines), "noise_pred", "out"), SPEC
        ),
        inputs=("latents",),
        constants={},
        instructions=(
            Run("blocks", 0, ("latents",), values),
            *combines,
            Run("head", 0, read, ("noise_pred",)),
            sum_of("out = +latents -noise_pred"),
        ),
        calls=(Call(1.0, "latents", ("noise_pred",)),),
        output="out",
    )
    verify_program(program)
    return program


def shared(program: Program) -> list[str]:
    result = ShareSums()(program)
    verify_program(result.program)
    assert result.modified == (result.program.instructions != program.instructions)
    combines = [i for i in result.program.instructions if isinstance(i, Combine) and i.output != "out"]
    signs = {1.0: "+", -1.0: "-"}
    return [
        f"{combine.output} = {' '.join(signs[t.coefficient.constant] + t.value for t in combine.terms)}"
        for combine in combines
    ]


@pytest.mark.parametrize(
    ("sums", "last"),
    [
        (("s = +a -b +c", "t = +d +a -b +c"), "t = +d +s"),
        (("s = +a -b +c", "t = +d -a +b -c"), "t = +d -s"),
        (("s = +a -b", "t = +c -d", "u = +e +a -b -c +d"), "u = +e +s -t"),
        (("s = +a -b", "t = +a -b +c", "u = +d +a -b +c"), "u = +d +t"),  # what leaves fewest terms
        (("s = +a -b", "t = +a -b +c", "u = +t +d +c"), "u = +t +d +c"),  # no longer than it was
        (("s = +a -b", "t = +d +a"), "t = +d +a"),
        (("s = +a -b", "t = +a +b +c"), "t = +a +b +c"),
    ],
)
def test_a_sum_in_fewer_terms(sums: tuple[str, ...], last: str) -> None:
    found = shared(program_of(*sums))
    assert found[0] == sums[0]
    assert set(found[-1].split()) == set(last.split())


def test_the_value_that_was_just_computed_stays_first() -> None:
    assert shared(program_of("s = +a -b +c", "t = +d +a -b +c -e"))[-1] == "t = +d -e +s"


def test_what_no_call_reads_is_not_read_instead() -> None:
    """A host with a scheduler of its own would not compute it."""
    sums = ("s = +a -b", "t = +c +a -b")
    assert shared(program_of(*sums, unread="s")) == list(sums)
    assert shared(program_of(*sums)) == ["s = +a -b", "t = +c +s"]
