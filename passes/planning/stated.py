"""Where arguments are to lie, and who says so: the program goes before options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from xdsl.dialects.func import FuncOp

from autopar.dialects.autopar import aliases, arg_shardings, result_shardings
from autopar.dialects.sharding import Grid, Sharding

from .demands import Demands, demanded_shardings


@dataclass(frozen=True)
class Said:
    """Where an argument is to lie."""

    sharding: Sharding
    by: Literal["argument", "result", "option"]
    """The program of the argument, or of the result that takes its buffer; or an option."""


@dataclass(frozen=True)
class Stated:
    """What a function and the options say of where its arguments and results lie; None where they
    say nothing, as a sharding does that leaves all dimensions open."""

    arguments: Sequence[Sharding | None]
    """As the program states them."""
    results: Sequence[Sharding | None]
    of_argument: Sequence[Said | None]

    @staticmethod
    def find(func: FuncOp, grid: Grid, demands: Demands) -> Stated:
        arguments, results = (_that_say(found(func)) for found in (arg_shardings, result_shardings))
        shared: list[Sharding | None] = [None] * len(arguments)
        for argument, result in aliases(func):
            shared[argument] = results[result]
        demanded = demanded_shardings(func, grid, demands)
        said = [_first(*own) for own in zip(arguments, shared, demanded, strict=True)]
        return Stated(arguments, results, said)


def _that_say(shardings: Sequence[Sharding | None]) -> list[Sharding | None]:
    return [own if own is not None and own.says_something else None for own in shardings]


def _first(own: Sharding | None, shared: Sharding | None, other: Sharding | None) -> Said | None:
    if own is not None:
        return Said(own, "argument")
    if shared is not None:
        return Said(shared, "result")
    return None if other is None else Said(other, "option")
