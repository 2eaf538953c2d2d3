"""Op priorities: in which direction each factor of an op may propagate at which level."""

from __future__ import annotations

from xdsl.dialects.builtin import TensorType
from xdsl.ir import SSAValue

from autopar.dialects.rules.core import FactorKind, ShardingRule
from autopar.dialects.rules.registry import OpClass

from .factors import Direction

LEVELS = 5
"""Op priorities: passes of propagation, each with more ops and directions than the one before."""


def identity_rule(rank: int, sources: int, like: SSAValue | None = None) -> ShardingRule:
    """The rule that joins `sources` tensors and one result dimension by dimension."""
    type_ = None if like is None else like.type
    sizes = type_.get_shape() if isinstance(type_, TensorType) else (1 << 30,) * rank
    mapping = tuple((dim,) for dim in range(rank))
    return ShardingRule(
        tuple(sizes),
        (mapping,) * sources,
        (mapping,),
        (FactorKind.PASS_THROUGH,) * rank,
        (None,) * rank,
    )


def level_directions(
    rule: ShardingRule, kind: OpClass | None, single_use: bool, level: int
) -> tuple[Direction, ...]:
    """Directions of each factor at a level.

    0: elementwise ops, reshape and transpose whose operands have no other use (dynamic slices:
    forward). 1: the same whatever the uses. 2: pass-through factors of all ops, broadcasts
    backward. 3: all factors. 4: broadcasts forward too. Each level includes those before it.
    """
    none, both = Direction.NONE, Direction.BOTH
    early = none
    if kind in ("elementwise", "pass_through"):
        early = both
    elif kind == "forward":
        early = Direction.FORWARD
    if level == 0 and not single_use:
        early = none
    result: list[Direction] = []
    for factor, factor_kind in enumerate(rule.kinds):
        direction = early
        if factor in rule.blocked:
            direction = none
        elif level >= 4:
            direction = both
        elif level >= 2 and (level >= 3 or factor_kind is FactorKind.PASS_THROUGH):
            direction |= Direction.BACKWARD if kind == "broadcast" else both
        result.append(direction)
    return tuple(result)
