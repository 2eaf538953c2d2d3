"""What a long pass is doing, for whoever watches: a terminal, a notebook, a log."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

Watcher = Callable[[str], None]
"""Takes one line that says what comes now."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def tell(text: str) -> None:
    """Says what comes now, to the watcher if there is one."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(text)


def is_watched() -> bool:
    """Whether somebody listens."""
    return _watcher.get() is not None


@contextmanager
def watched(watcher: Watcher) -> Generator[None]:
    """Gives a watcher what the passes say that run inside."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
