"""How long the parts of planning take."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from autopar.passes.collector import collector_off
from autopar.passes.progress import tell


class Clock:
    """Says what planning does, and sums up how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str, text: str) -> Generator[None]:
        tell(f"auto-shard: {text}")
        start = time.perf_counter()
        with collector_off():
            yield
        took = time.perf_counter() - start
        self.seconds[part] = self.seconds.get(part, 0.0) + took
