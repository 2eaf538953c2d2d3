"""Long fuzzing of the partitioner: `python -m tests.fuzz --minutes 10 [--seed N] [--auto-shard]`.

Random programs through the differential oracle; each failure is shrunk and printed with the seed
that makes it again (`--seed N --count 1`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from random import Random
from typing import Any

from . import (
    conftest,  # noqa: F401  (eight virtual devices, before JAX starts)
    oracle,
)
from .random_jax import Generator, Program, simpler


class SeededChooser:
    """Choices of a seeded pseudo-random generator."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def one_of(self, options: Sequence[Any]) -> Any:
        return self._random.choice(options)

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def chance(self, percent: int) -> bool:
        return self._random.random() * 100 < percent


def failure(program: Program) -> BaseException | None:
    """What goes wrong with a program; None if nothing does."""
    try:
        program.check()
    except Exception as error:
        return error
    return None


def shrink(program: Program, error: BaseException) -> tuple[Program, BaseException]:
    """The simplest program found that fails in the same way."""
    found = True
    while found:
        found = False
        for candidate in simpler(program):
            new = failure(candidate)
            if new is not None and type(new) is type(error):
                program, error, found = candidate, new, True
                break
    return program, error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1 << 60, help="how many programs at most")
    parser.add_argument("--auto-shard", action="store_true", help="planned, not propagated")
    options = parser.parse_args(arguments)
    if options.auto_shard:
        oracle.PROPAGATE = oracle.AUTO_SHARD
    end = time.monotonic() + 60 * options.minutes
    seed, failures = options.seed, 0
    while time.monotonic() < end and seed - options.seed < options.count:
        chooser = SeededChooser(seed)
        program = Generator(chooser, steps=chooser.integer(1, 7)).program()
        error = failure(program)
        if error is not None:
            failures += 1
            program, error = shrink(program, error)
            reason = f"{type(error).__name__}: {str(error)[:600]}"
            print(f"seed {seed}: {reason}\n{program}\n", flush=True)
        seed += 1
    print(f"{seed - options.seed} programs, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
