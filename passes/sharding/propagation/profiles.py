"""How nodes propagate: at each level along which factors, in which directions.

Most ops of a program are alike, so few different profiles serve all nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.ir import Operation, SSAValue

from autopar.dialects.rules.access import integer
from autopar.dialects.rules.core import ShardingRule
from autopar.dialects.rules.registry import OpClass

from .classes import rank_of
from .factors import Direction, Step
from .levels import LEVELS, identity_rule, level_directions
from .manual import Manual

NO_PROFILE = -1
"""Of an op that propagates nothing."""


@dataclass(eq=False, slots=True)
class Variant:
    """How a node propagates at one level."""

    step: Step
    manual: Manual | None = None


class Profiles:
    """The profiles of the nodes of a module; profiles and variants are small integers."""

    def __init__(self) -> None:
        self.variants: list[Variant] = []
        self.levels: list[tuple[int, ...]] = []
        """For each profile and level the index of a variant; -1: nothing to do."""
        self._made: dict[tuple[object, ...], int] = {}

    def of_rule(self, rule: ShardingRule, kind: OpClass | None, single_use: bool) -> int:
        """The profile of an op with this rule; `single_use`: its operands have no other use."""
        key = (id(rule), kind, single_use)
        found = self._made.get(key)
        if found is None:
            variants: dict[tuple[Direction, ...], int] = {}
            indices: list[int] = []
            for level in range(LEVELS):
                directions = level_directions(rule, kind, single_use, level)
                if not any(directions):
                    indices.append(-1)
                    continue
                if directions not in variants:
                    step = Step(rule, directions, kind == "elementwise")
                    variants[directions] = self._add_variant(step)
                indices.append(variants[directions])
            found = self._made[key] = self._add(tuple(indices))
        return found

    def of_barrier(self, op: Operation) -> int:
        """A propagation barrier lets through its direction, at every level."""
        direction = Direction(integer(op, "allowed_direction"))
        rank = rank_of(op.results[0])
        if direction is Direction.NONE or rank == 0:
            return NO_PROFILE
        key = ("barrier", direction, rank)
        found = self._made.get(key)
        if found is None:
            step = Step(identity_rule(rank, 1), (direction,) * rank, True)
            found = self._made[key] = self._add((self._add_variant(step),) * LEVELS)
        return found

    def of_edge(self, sources: int, like: SSAValue, manual: Manual | None) -> int:
        """A data-flow edge joins its sources with a target, at every level."""
        key = ("edge", sources, like.type)
        found = None if manual else self._made.get(key)
        if found is None:
            rank = rank_of(like)
            step = Step(identity_rule(rank, sources, like), (Direction.BOTH,) * rank, False)
            found = self._add((self._add_variant(step, manual),) * LEVELS)
            if manual is None:
                self._made[key] = found
        return found

    def joining(self, rank: int) -> int:
        """The variant that joins a returned value and the function's result."""
        key = ("result", rank)
        found = self._made.get(key)
        if found is None:
            step = Step(identity_rule(rank, 1), (Direction.BOTH,) * rank, False)
            found = self._made[key] = self._add_variant(step)
        return found

    def _add_variant(self, step: Step, manual: Manual | None = None) -> int:
        self.variants.append(Variant(step, manual))
        return len(self.variants) - 1

    def _add(self, variants: tuple[int, ...]) -> int:
        self.levels.append(variants)
        return len(self.levels) - 1
