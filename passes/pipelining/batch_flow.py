"""Which values of a training step belong to single examples: the batch dimension, followed.

Starting from the batch arguments, the batch dimension is followed through sharding rules: it is a
factor like any other. A value is

- *per example* if one of its dimensions is (in its major part) the batch;
- *reduced* if it depends on the batch but has no batch dimension: a loss, a gradient, a statistic;
- *invariant* if it does not depend on the batch at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from xdsl.ir import Block, Operation, SSAValue

from autopar.dialects.rules.core import ShardingRule
from autopar.dialects.rules.registry import get_rule
from autopar.dialects.tensors import shape_of

BatchDims = frozenset[int]
"""The dimensions of a value whose major part is the batch."""

_CONTROL_FLOW = ("stablehlo.while", "stablehlo.case", "stablehlo.if")


class BatchFlow:
    """Follows the batch dimension through a block and its regions."""

    def __init__(self, batch: dict[SSAValue, int]) -> None:
        """`batch`: the batch arguments with their batch dimension."""
        self.dims: dict[SSAValue, BatchDims] = {v: frozenset((d,)) for v, d in batch.items()}
        """Values that depend on the batch; the empty set: reduced."""

    def depends(self, value: SSAValue) -> bool:
        return value in self.dims

    def is_per_example(self, value: SSAValue) -> bool:
        return bool(self.dims.get(value))

    def follow(self, block: Block) -> None:
        """Classifies every value of the block, in program order."""
        for op in block.ops:
            self._op(op)

    def _op(self, op: Operation) -> None:
        if op.name in _CONTROL_FLOW:
            self._control_flow(op)
            return
        if not any(v in self.dims for v in inputs_of(op)):
            return
        if op.name == "stablehlo.optimization_barrier":
            for operand, result in zip(op.operands, op.results, strict=True):
                self._join(result, operand)
            return
        if op.name == "stablehlo.reshape":
            result = op.results[0]
            self.dims[result] = _reshaped(
                self.dims[op.operands[0]], shape_of(op.operands[0].type), shape_of(result.type)
            )
            return
        rule = get_rule(op)
        for index, result in enumerate(op.results):
            self.dims[result] = (
                self._by_rule(op, rule, index) if rule is not None else self._guess(op, result)
            )

    def _join(self, target: SSAValue, source: SSAValue) -> bool:
        """Lets `target` be what `source` is as well; whether that is news."""
        if source not in self.dims:
            return False
        old = self.dims.get(target)
        new = self.dims[source] | (old or frozenset())
        self.dims[target] = new
        return new != old

    def _by_rule(self, op: Operation, rule: ShardingRule, index: int) -> BatchDims:
        factors: set[int] = set()
        for operand, mapping in zip(op.operands, rule.operands, strict=True):
            for dim in self.dims.get(operand, ()):
                if mapping[dim]:
                    factors.add(_major(rule, mapping[dim]))
        return frozenset(
            dim
            for dim, held in enumerate(rule.results[index])
            if held and _major(rule, held) in factors
        )

    def _guess(self, op: Operation, result: SSAValue) -> BatchDims:
        """An op without a rule: a dimension as long as an operand's batch, at the same place."""
        shape = shape_of(result.type)
        found: set[int] = set()
        for operand in op.operands:
            for dim in self.dims.get(operand, ()):
                if dim < len(shape) and shape[dim] == shape_of(operand.type)[dim]:
                    found.add(dim)
        return frozenset(found)

    def _control_flow(self, op: Operation) -> None:
        if op.name == "stablehlo.while":
            changed = True
            blocks = [region.block for region in op.regions]
            for operand, result in zip(op.operands, op.results, strict=True):
                self._join(result, operand)
            while changed:
                changed = False
                for block in blocks:
                    for arg, result in zip(block.args, op.results, strict=True):
                        self._join(arg, result)
                    self.follow(block)
                last = blocks[1].last_op
                assert last is not None
                for result, value in zip(op.results, last.operands, strict=True):
                    changed |= self._join(result, value)
            return
        for region in op.regions:
            self.follow(region.block)
            last = region.block.last_op
            assert last is not None
            for result, value in zip(op.results, last.operands, strict=True):
                self._join(result, value)
        if any(v in self.dims for v in op.operands):
            for result in op.results:
                self.dims.setdefault(result, frozenset())


def inputs_of(op: Operation) -> Iterable[SSAValue]:
    """Operands, and what regions read from outside."""
    yield from op.operands
    for region in op.regions:
        for inner in region.walk():
            yield from inner.operands


def _major(rule: ShardingRule, factors: tuple[int, ...]) -> int:
    """The most major factor that is not of size 1 (the first where all are)."""
    return next((f for f in factors if rule.factor_sizes[f] > 1), factors[0])


def _reshaped(dims: BatchDims, old: tuple[int, ...], new: tuple[int, ...]) -> BatchDims:
    """Where a batch dimension is after a reshape: the dimension that starts at the same place."""
    found: set[int] = set()
    for dim in dims:
        before = prod(old[:dim])
        candidates = [d for d in range(len(new)) if prod(new[:d]) == before]
        longer = [d for d in candidates if new[d] > 1]
        if longer or candidates:
            found.add((longer or candidates)[-1 if not longer else 0])
    return frozenset(found)
