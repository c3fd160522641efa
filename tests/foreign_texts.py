"""Texts that do harm where they are not read as data, and the line that a command ends in."""

import pytest

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.foreign import visible

TITLE = "\x1b]0;title\x07\x1b[2J"
"""Sets a terminal's title, rings, and clears it."""
DEEP = "[" * 200_000
DIGITS = "9" * 5000


def refusal(call, kind=UserError):
    with pytest.raises(kind) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and message == visible(message) and len(message) < 1000, message
    return message


def stopped(capfd, main, *arguments):
    """The one line that a command ends with, on an otherwise empty screen."""
    with pytest.raises(SystemExit) as stop:
        run_command(main, [str(argument) for argument in arguments])
    printed = capfd.readouterr()
    lines = (printed.out + printed.err).splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: "), lines
    assert lines[0] == visible(lines[0])
    return lines[0]
