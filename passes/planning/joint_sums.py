"""Sums of what several ops give as partial sums: the gradients of a table from each use of it, what
flows back through the projections of one input.

The partitioner adds partial sums over the same axes first, and reduces their sum once
(`passes/partition/partials.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xdsl.ir import Block, Operation, SSAValue

from autopar.dialects.rules.registry import get_rule
from autopar.dialects.tensors import num_bytes
from autopar.passes.partition.optimize_collectives import OptimizeCollectivesPass
from autopar.passes.partition.splats import makes_infinite
from autopar.passes.walk import ops_in

from .loop_sums import SumGroup, count_of, may_sum

_ADD = "stablehlo.add"


@dataclass(frozen=True)
class Added:
    """A sum of what several ops give, where it is whole."""

    total: SSAValue

    @property
    def maker(self) -> Operation:
        """What adds the last of them."""
        assert isinstance(self.total.owner, Operation)
        return self.total.owner


def joint_sums(block: Block) -> Iterator[SumGroup]:
    """The sums of a block that are too large to be reduced together with others of its kind
    anyhow."""
    inside: set[Operation] = set()
    for op in reversed(list(ops_in(block))):
        if op.name != _ADD or op in inside:
            continue
        (result,) = op.results
        if num_bytes(result.type) <= OptimizeCollectivesPass.small_bytes:
            continue
        group = _Sum(op)
        if group.is_partial and len(group.makers) > 1:
            inside |= group.passed
            adds = [add for add in group.passed if add.name == _ADD]
            sink = Added(result)
            yield SumGroup(group.makers, [sink], True, group.passed, {sink: adds})


class _Sum:
    """What an addition adds up, directly or not."""

    def __init__(self, add: Operation) -> None:
        self._block = add.parent
        self.makers: list[Operation] = []
        self.passed: set[Operation] = {add}
        """The additions, and what converts or reshapes their operands."""
        self.is_partial = all([self._follow(value) for value in add.operands])
        """Whether all of it may be partial sums."""

    def _follow(self, value: SSAValue) -> bool:
        op = value.owner
        if not isinstance(op, Operation) or op.parent is not self._block:
            return False
        if not value.has_one_use() or len(op.results) != 1:
            return False
        if may_sum(op):
            self.makers.append(op)
            return True
        if op.name != _ADD and not _only_converts(op):
            return False
        self.passed.add(op)
        return all([self._follow(operand) for operand in op.operands])


def _only_converts(op: Operation) -> bool:
    """Whether a sum may be converted, reshaped or negated before it is reduced."""
    rule = get_rule(op) if len(op.operands) == 1 else None
    if rule is None or (0,) not in rule.linear or makes_infinite(op, (0,)):
        return False
    return count_of(op.results[0]) == count_of(op.operands[0])
