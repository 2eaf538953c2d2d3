"""What the command lines say on a terminal: one-line errors, progress, colours.

Progress is written only where standard error is a terminal; colours only there and without
`NO_COLOR` (https://no-color.org).
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TextIO

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1"}


OUT_OF_MEMORY = "out of memory"
_PATIENCE = 2.0
"""Seconds after which one wants to know what is going on."""


class UsageError(Exception):
    """A wrong command line or file; the message is one line."""


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody is watching: a terminal that can move its cursor (None: closed)."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def coloured(text: str, colour: str, stream: TextIO | None) -> str:
    """The text in a colour, if the stream is a terminal and NO_COLOR is unset."""
    if os.environ.get("NO_COLOR") or not is_terminal(stream):
        return text
    return f"\033[{_COLOURS[colour]}m{text}\033[0m"


def write_stdout(text: str) -> None:
    """Writes to standard output; UsageError where it is closed or full."""
    stream: TextIO | None = sys.stdout  # None: closed
    if stream is None:
        raise UsageError("cannot write -: standard output is closed")
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence_stdout()
        raise UsageError(f"cannot write -: {error.strerror}") from None


def write_json(value: object) -> None:
    """Writes a report to standard output."""
    import json

    write_stdout(json.dumps(value, indent=2) + "\n")


def silence_stdout() -> None:
    """Lets no second error come at exit, when what is left of the output is written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_error(program: str, message: str) -> None:
    """`program: error: message` on standard error."""
    stream: TextIO | None = sys.stderr  # None: closed
    if stream is None:
        return
    error = coloured("error:", "red", stream)
    sys.stderr.write(f"{program}: {error} {message}\n")


def configure_logging(*, quiet: bool) -> None:
    """Sends the logger `autopar` to standard error: warnings, or with `quiet` errors only."""
    import logging

    logger = logging.getLogger("autopar")
    logger.setLevel(logging.ERROR if quiet else logging.WARNING)
    if not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("autopar: %(levelname)s: %(message)s"))
        logger.addHandler(handler)


class Progress:
    """One line that says what is being done, rewritten in place; nothing off a terminal.

    With `after`, nothing in the first so many seconds, and then with the seconds that passed.
    """

    def __init__(self, program: str, *, quiet: bool = False, after: float = 0.0) -> None:
        self._program = program
        self._shown = not quiet and is_terminal(sys.stderr)
        self._after = after
        self._began: float | None = None

    def step(self, text: str) -> None:
        """Says what comes now."""
        if not self._shown:
            return
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        took = now - self._began
        if took >= self._after:
            clock = f" ({took:.0f} s)" if self._after else ""
            room = shutil.get_terminal_size().columns - len(clock) - 3
            line = f"{self._program}: {text}"[:room]
            sys.stderr.write(f"\r\033[K{line} …{clock}")
            sys.stderr.flush()

    def done(self, text: str = "") -> None:
        """Clears the line; leaves `text` in its place."""
        if self._shown:
            sys.stderr.write(f"\r\033[K{text}" + ("\n" if text else ""))
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.done()


@contextmanager
def passes_shown(program: str, *, quiet: bool = False) -> Generator[None]:
    """Shows what the passes inside do when they take long, unless somebody watches them already."""
    from .passes.progress import is_watched, watched

    if is_watched():
        yield
        return
    with Progress(program, quiet=quiet, after=_PATIENCE) as progress, watched(progress.step):
        yield
        progress.done()
