"""Changes to the text of plan.json: what no JSON writer would write."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from tests.corpus.alteration import OPENS, PLAN, REFUSED, Alteration, put, read_plan, sealed
from tests.corpus.base import Base

CUTS, FLIPS = 24, 60
MARK = "@@"
BLANKS = b" \t\r\n"
Rewrite = Callable[[bytes], bytes]


def alterations(base: Base, random: Random) -> Iterator[Alteration]:
    text = (base.path / PLAN).read_bytes()
    whole = len(text.rstrip())  # what follows are blanks
    for at in sorted(random.sample(range(whole), CUTS)):
        yield _rewritten(f"cut at byte {at}", REFUSED, lambda text, at=at: text[:at])
    for at in sorted(random.sample(range(whole), FLIPS)):
        flipped = text[at] ^ random.randrange(1, 256)
        if not (text[at] in BLANKS and flipped in BLANKS):
            name = f"byte {at} is {flipped:#04x} for {text[at]:#04x}"
            yield _rewritten(
                name, REFUSED, lambda text, at=at, to=flipped: text[:at] + bytes([to]) + text[at + 1 :]
            )
    for name, rewrite in REFUSALS.items():
        yield _rewritten(name, REFUSED, rewrite)
    for name, rewrite in ALLOWED.items():
        yield _rewritten(name, OPENS, rewrite)
    for name, literal in LITERALS.items():
        yield _literal(name, REFUSED, literal)
    for name, literal in ALLOWED_LITERALS.items():
        yield _literal(name, OPENS, literal)


def _rewritten(name: str, verdict: str, rewrite: Rewrite) -> Alteration:
    return Alteration(name, verdict, lambda bundle: put(bundle, PLAN, rewrite((bundle / PLAN).read_bytes())))


def _literal(name: str, verdict: str, literal: str) -> Alteration:
    """Something Python's writer can't be made to write, in a field that readers ignore.

    The checksum is that of the document as Python reads it, so that it is the literal that is judged; where
    Python can't read it, none could be right.
    """

    def change(bundle: Path) -> None:
        document = read_plan(bundle)
        document["model"]["config"]["mark"] = MARK
        text = json.dumps(sealed(document))
        try:
            document["model"]["config"]["mark"] = json.loads(literal)
            seal = sealed(document)["checksum"]
        except (ValueError, RecursionError):
            seal = "0" * 64
        text = re.sub('"checksum": "[0-9a-f]+"', f'"checksum": "{seal}"', text)
        put(bundle, PLAN, text.replace(f'"{MARK}"', literal).encode("utf-8", "surrogatepass"))

    return Alteration(f"{name} in an ignored field", verdict, change)


def _twice(text: bytes) -> bytes:
    """The first member of the plan, again at its end."""
    document = json.loads(text)
    return json.dumps(document)[:-1].encode() + b', "format": "dipgo.plan"}'


def _shuffled(text: bytes) -> bytes:
    document = json.loads(text)
    return json.dumps({key: document[key] for key in reversed(document)}).encode()


REFUSALS: dict[str, Rewrite] = {
    "empty": lambda text: b"",
    "blank": lambda text: b"\n\n",
    "null": lambda text: b"null",
    "a list": lambda text: b"[" + text + b"]",
    "a number": lambda text: b"1",
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "Latin-1": lambda text: text.replace(b'"toy"', b'"to\xff"'),
    "an overlong sequence": lambda text: text.replace(b'"toy"', b'"to\xc0\xaf"'),
    "a surrogate in UTF-8": lambda text: text.replace(b'"toy"', b'"to\xed\xa0\x80"'),
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "a NUL behind it": lambda text: text + b"\0",
    "a second document behind it": lambda text: text + text,
    "a comma behind the last member": lambda text: text.rstrip()[:-1] + b",}",
    "a comment": lambda text: b"/* plan */" + text,
    "single quotes": lambda text: text.replace(b'"toy"', b"'toy'"),
    "a tab in a string": lambda text: text.replace(b'"toy"', b'"t\toy"'),
    "an unknown escape": lambda text: text.replace(b'"toy"', b'"\\toy\\x"'),
    "a member twice": _twice,
    "a hundred thousand brackets": lambda text: b"[" * 100_000,
    "a hundred thousand braces": lambda text: b'{"a":' * 100_000,
}

ALLOWED: dict[str, Rewrite] = {
    "in one line": lambda text: json.dumps(json.loads(text), separators=(",", ":")).encode(),
    "with indents": lambda text: json.dumps(json.loads(text), indent=4).encode(),
    "with carriage returns": lambda text: text.replace(b"\n", b"\r\n"),
    "with its members in another order": _shuffled,
    "with letters as escapes": lambda text: text.replace(b'"latents"', b'"\\u006catents"'),
    "with slashes as escapes": lambda text: text.replace(b"/", b"\\/"),
    "with blanks behind it": lambda text: text + b" " * 10_000,
}

LITERALS = {
    "NaN": "NaN",
    "Infinity": "Infinity",
    "minus Infinity": "-Infinity",
    "a number that overflows": "1e999",
    "a negative number that overflows": "-1e999",
    "an integer beyond 64 bits": "18446744073709551616",
    "a negative integer beyond 64 bits": "-9223372036854775809",
    "an integer of ten thousand digits": "9" * 10_000,
    "a leading zero": "01",
    "a plus sign": "+1",
    "a bare point": "1.",
    "a hexadecimal number": "0x10",
    "half a surrogate pair": '"\\ud800"',
    "the other half": '"\\udc00x"',
    "half a surrogate pair as a key": '{"\\ud83d": 1}',
    "a key twice": '{"a": 1, "a": 2}',
    "a list too deep": "[" * 100 + "]" * 100,
    "a list a thousand deep": "[" * 990 + "]" * 990,
    "an object too deep": '{"a":' * 100 + "1" + "}" * 100,
}
ALLOWED_LITERALS = {
    "an exponent": "1E+2",
    "a long fraction": "0.1000000000000000055511151231257827021181583404541015625",
    "a fraction that underflows": "1e-999",
    "minus zero": "-0",
    "minus zero as a fraction": "-0.0",
    "the largest integer": "18446744073709551615",
    "a surrogate pair": '"\\ud83d\\ude00"',
    "an escaped NUL": '"a\\u0000b"',
    "every escape": '"\\"\\\\\\/\\b\\f\\n\\r\\t"',
    "DEL and beyond": '"\x7f\x80\u2028\U0010ffff"',
}
