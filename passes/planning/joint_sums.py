"""Sums of what several ops give as partial sums: the gradients of a table from each use of it, what
flows back through the projections of one input.

The partitioner adds partial sums over the same axes first, and reduces their sum once
(`passes/partition/partials.py`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator
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
    passing = _passing(block)
    for op in ops_in(block):
        if op not in passing or op.name != _ADD:
            continue
        (result,) = op.results
        goes_on = result.has_one_use() and any(use.operation in passing for use in result.uses)
        if goes_on or num_bytes(result.type) <= OptimizeCollectivesPass.small_bytes:
            continue
        makers, passed = _summands(op, passing)
        sink = Added(result)
        adds = [add for add in passed if add.name == _ADD]
        yield SumGroup(makers, [sink], True, set(passed), {sink: adds})


def _passing(block: Block) -> set[Operation]:
    """The ops that add, convert or reshape nothing but what may be partial sums, of which nothing
    else is read."""
    partial: set[SSAValue] = set()
    passing: set[Operation] = set()
    for op in ops_in(block):
        if len(op.results) != 1:
            continue
        if may_sum(op):
            partial.update(op.results)
        elif op.name == _ADD or _only_converts(op):
            if all(value in partial and value.has_one_use() for value in op.operands):
                passing.add(op)
                partial.update(op.results)
    return passing


def _summands(
    add: Operation, passing: Container[Operation]
) -> tuple[list[Operation], list[Operation]]:
    """The ops that make what an addition adds up, directly or not, and those that pass it on."""
    makers: list[Operation] = []
    passed = [add]
    for op in passed:
        for value in op.operands:
            assert isinstance(value.owner, Operation)
            (passed if value.owner in passing else makers).append(value.owner)
    return makers, passed


def _only_converts(op: Operation) -> bool:
    """Whether a sum may be converted, reshaped or negated before it is reduced."""
    rule = get_rule(op) if len(op.operands) == 1 else None
    if rule is None or (0,) not in rule.linear or makes_infinite(op, (0,)):
        return False
    return count_of(op.results[0]) == count_of(op.operands[0])
