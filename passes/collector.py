"""Python's cyclic garbage collector, kept out of passes that make many objects.

Operations, values and uses point at each other, and nearly all stay: the collector would look
at every one of them again and again and find nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def collector_off() -> Generator[None]:
    """Switches the collector off inside, if it was on.

    Afterwards what was made counts as old, without having been scanned.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:
            gc.freeze()
            gc.unfreeze()
        gc.enable()
