"""Where a command's result goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dipgo_compile.commands.result import Result, json_option
from dipgo_compile.errors import InputError

FACTS = {"speedup": 4.5}


def command(work: Callable[[], None] = lambda: None) -> click.Command:
    @click.command()
    @json_option("the result")
    def run(result: Result) -> None:
        work()
        result.report(FACTS, "4.5 times faster")

    return run


def test_without_the_option_people_read_it() -> None:
    assert CliRunner().invoke(command()).output == "4.5 times faster\n"


def test_json_has_stdout_for_itself() -> None:
    assert json.loads(CliRunner().invoke(command(), ["--json", "-"]).output) == FACTS


def test_a_file_is_written_beside_the_text(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert CliRunner().invoke(command(), ["--json", str(file)]).output == "4.5 times faster\n"
    assert json.loads(file.read_text()) == FACTS
    assert list(tmp_path.iterdir()) == [file]


def test_an_older_result_stays_until_there_is_a_new_one(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text("old")

    def interrupt() -> None:
        raise KeyboardInterrupt

    result = CliRunner().invoke(command(interrupt), ["--json", str(file)])
    assert result.exit_code != 0
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_pipe_or_a_device_is_written_to() -> None:
    assert CliRunner().invoke(command(), ["--json", "/dev/null"]).exit_code == 0
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("place", ["missing/result.json", "."])
def test_an_unwritable_place_is_refused_before_the_work(tmp_path: Path, place: str) -> None:
    def work() -> None:
        pytest.fail("it began")

    result = CliRunner().invoke(command(work), ["--json", str(tmp_path / place)])
    assert isinstance(result.exception, InputError)
    assert "cannot write the result" in str(result.exception)
