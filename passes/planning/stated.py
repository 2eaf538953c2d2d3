"""Where values are to lie, and who says so: the program goes before options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from xdsl.dialects.func import FuncOp
from xdsl.ir import SSAValue

from autopar.dialects.autopar import (
    SHARDING,
    aliases,
    arg_shardings,
    result_shardings,
    sharding_of,
)
from autopar.dialects.rules.regions import MANUAL
from autopar.dialects.sharding import Grid, Sharding

from .demands import Demands, demanded_shardings
from .places import MOVES, planned_ops


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
    of_values: Mapping[SSAValue, Sharding]
    """Of what ops give, loops and constraints among them."""

    def parts(self, argument: int, result: int) -> bool:
        """Whether the program states of a result otherwise where it lies than of the argument
        whose buffer it may take."""
        own, wanted = self.arguments[argument], self.results[result]
        return own is not None and wanted is not None and own != wanted

    @staticmethod
    def find(func: FuncOp, grid: Grid, demands: Demands) -> Stated:
        arguments, results = (_that_say(found(func)) for found in (arg_shardings, result_shardings))
        shared: list[Sharding | None] = [None] * len(arguments)
        for argument, result in aliases(func):
            shared[argument] = results[result]
        demanded = demanded_shardings(func, grid, demands)
        said = [_first(*own) for own in zip(arguments, shared, demanded, strict=True)]
        return Stated(arguments, results, said, dict(_of_values(func)))


def _of_values(func: FuncOp) -> Iterator[tuple[SSAValue, Sharding]]:
    """What the function says of the results of its ops; of computations by hand the border does."""
    for op in planned_ops(func):
        if op.name in MOVES or (SHARDING in op.attributes and op.name != MANUAL):
            for result, own in zip(
                op.results, _that_say(map(sharding_of, op.results)), strict=True
            ):
                if own is not None and own.rank:
                    yield result, own


def _that_say(shardings: Iterable[Sharding | None]) -> list[Sharding | None]:
    return [own if own is not None and own.says_something else None for own in shardings]


def _first(own: Sharding | None, shared: Sharding | None, other: Sharding | None) -> Said | None:
    if own is not None:
        return Said(own, "argument")
    if shared is not None:
        return Said(shared, "result")
    return None if other is None else Said(other, "option")
