from __future__ import annotations

import pytest
from cli_support import Invoke

import dipgo_compile
from dipgo_compile.cli import COMMANDS


def test_lists_every_command(invoke: Invoke) -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for name, summary in COMMANDS.items():
        assert f"  {name} " in result.stdout
        assert summary in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_page(invoke: Invoke, name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: dipgo-compile {name}")


def test_unknown_command(invoke: Invoke) -> None:
    result = invoke("compile")
    assert result.exit_code == 2
    assert "No such command 'compile'" in result.stderr


def test_version(invoke: Invoke) -> None:
    assert dipgo_compile.__version__ in invoke("--version").stdout
