"""Which values of a training step belong to single examples: the batch dimension, followed.

Starting from the batch arguments, the batch dimension is followed through sharding rules: it is a
factor like any other. A value is

- *per example* if one of its dimensions holds the batch, or a part of it;
- *reduced* if it depends on the batch but has no batch dimension: a loss, a gradient, a statistic;
- *invariant* if it does not depend on the batch at all.

This says where the step is cut, and takes a slice of the batch, or a value that mixes examples, for
per example too. What may be put together from microbatches is asked of `examples.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from math import prod

from xdsl.ir import Block, Operation, SSAValue

from autopar.dialects.autopar import BATCH_DIMS
from autopar.dialects.rules.access import ints
from autopar.dialects.rules.core import ShardingRule
from autopar.dialects.rules.regions import MANUAL
from autopar.dialects.rules.registry import get_rule
from autopar.dialects.stablehlo.collectives import COLLECTIVES
from autopar.dialects.tensors import shape_of
from autopar.passes.importing.phases import PhaseNames


@dataclass(frozen=True, slots=True, order=True)
class BatchPlace:
    """Where a value holds the batch: dimension `dim`, seen as [outer, size, inner]."""

    dim: int
    outer: int
    size: int
    inner: int


BatchPlaces = frozenset[BatchPlace]

CHOICE = "choice"
"""How `lost_by` calls what is no reduction."""
_CONTROL_FLOW = ("stablehlo.while", "stablehlo.case", "stablehlo.if")


class BatchFlow:
    """Follows the batch dimension through a block and its regions."""

    def __init__(self, batch: dict[SSAValue, int]) -> None:
        """`batch`: the batch arguments with their batch dimension."""
        self.places: dict[SSAValue, BatchPlaces] = {
            v: frozenset((BatchPlace(d, 1, shape_of(v.type)[d], 1),)) for v, d in batch.items()
        }
        """Values that depend on the batch; the empty set: reduced."""
        self.sizes = {shape_of(v.type)[d] for v, d in batch.items()}
        """How many examples a batch argument holds."""
        self.phases = PhaseNames()

    def depends(self, value: SSAValue) -> bool:
        return value in self.places

    def is_per_example(self, value: SSAValue) -> bool:
        return bool(self.places.get(value))

    def follow(self, block: Block) -> None:
        """Classifies every value of the block, in program order."""
        for op in block.ops:
            self._op(op)

    def _op(self, op: Operation) -> None:
        if op.name in _CONTROL_FLOW:
            self._control_flow(op)
            return
        if BATCH_DIMS in op.attributes:  # says itself where it holds the batch
            shape = shape_of(op.results[0].type)
            places = (self._places_in(d, shape[d]) for d in ints(op, BATCH_DIMS))
            self.places[op.results[0]] = frozenset(chain.from_iterable(places))
            return
        if not any(v in self.places for v in inputs_of(op)):
            return
        if op.name == "stablehlo.optimization_barrier":
            for operand, result in zip(op.operands, op.results, strict=True):
                self._join(result, operand)
            return
        if op.name == "stablehlo.reshape":
            result = op.results[0]
            old, new = shape_of(op.operands[0].type), shape_of(result.type)
            places = self.places[op.operands[0]]
            self.places[result] = frozenset(p for q in places for p in reshaped(q, old, new))
            return
        if op.name == MANUAL:
            self._manual(op)
            return
        if op.name in COLLECTIVES:  # those of a manual computation, which changes sizes as they do
            for operand, result in zip(op.operands, op.results, strict=True):
                self._see(result, operand)
            return
        rule = get_rule(op)
        for index, result in enumerate(op.results):
            self.places[result] = (
                self._by_rule(op, rule, index) if rule is not None else self._guess(op, result)
            )

    def _places_in(self, dim: int, length: int) -> Iterator[BatchPlace]:
        """Where a dimension may hold the batch that grows with it: as its major or its minor part,
        as tokens of examples do once they are one dimension."""
        sizes = [size for size in self.sizes if size > 1 and length % size == 0 and size < length]
        if length in self.sizes or not sizes:
            yield BatchPlace(dim, 1, length, 1)
            return
        for size in sizes:
            yield BatchPlace(dim, 1, size, length // size)
            yield BatchPlace(dim, length // size, size, 1)

    def _join(self, target: SSAValue, source: SSAValue) -> bool:
        """Lets `target` be what `source` is as well; whether that is news."""
        if source not in self.places:
            return False
        old = self.places.get(target)
        new = self.places[source] | (old or frozenset())
        self.places[target] = new
        return new != old

    def _by_rule(self, op: Operation, rule: ShardingRule, index: int) -> BatchPlaces:
        shape = shape_of(op.results[index].type)
        found: set[BatchPlace] = set()
        for operand, mapping in zip(op.operands, rule.operands, strict=True):
            for place in self.places.get(operand, ()):
                if not mapping[place.dim]:
                    continue
                factor = _major(rule, mapping[place.dim])
                size = shape_of(operand.type)[place.dim]
                found |= {
                    _moved(place, dim, size, shape[dim])
                    for dim, held in enumerate(rule.results[index])
                    if held and _major(rule, held) == factor
                }
        return frozenset(found)

    def _guess(self, op: Operation, result: SSAValue) -> BatchPlaces:
        """An op without a rule: a dimension as long as an operand's batch, at the same place."""
        shape = shape_of(result.type)
        return frozenset(
            place
            for operand in op.operands
            for place in self.places.get(operand, ())
            if place.dim < len(shape) and shape[place.dim] == shape_of(operand.type)[place.dim]
        )

    def _manual(self, op: Operation) -> None:
        """A body on the shapes of one device."""
        block = op.regions[0].block
        for operand, arg in zip(op.operands, block.args, strict=True):
            self._see(arg, operand)
        self.follow(block)
        last = block.last_op
        assert last is not None
        for result, value in zip(op.results, last.operands, strict=True):
            self._see(result, value)

    def _see(self, target: SSAValue, source: SSAValue) -> None:
        """Lets `target` be `source` in another size."""
        if source in self.places:
            new, old = shape_of(target.type), shape_of(source.type)
            places = (across_border(place, old, new) for place in self.places[source])
            self.places[target] = frozenset(p for p in places if p is not None)

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
        if any(v in self.places for v in op.operands):
            for result in op.results:
                self.places.setdefault(result, frozenset())


def inputs_of(op: Operation) -> Iterable[SSAValue]:
    """Operands, and what regions read from outside."""
    yield from op.operands
    for region in op.regions:
        for inner in region.walk():
            yield from inner.operands


def _major(rule: ShardingRule, factors: tuple[int, ...]) -> int:
    """The most major factor that is not of size 1 (the first where all are)."""
    return next((f for f in factors if rule.factor_sizes[f] > 1), factors[0])


def _moved(place: BatchPlace, dim: int, old: int, new: int) -> BatchPlace:
    """A place in a dimension of size `old`, in one of size `new` (of a part of the batch)."""
    if old == new:
        return BatchPlace(dim, place.outer, place.size, place.inner)
    return BatchPlace(dim, 1, new, 1)


def across_border(
    place: BatchPlace, old: tuple[int, ...], new: tuple[int, ...]
) -> BatchPlace | None:
    """A place on the other side of a manual computation's border; None where it is cut up."""
    before, after = old[place.dim], new[place.dim]
    if before == after:
        return place
    size, rest = divmod(place.size * after, before)
    if rest or not size or place.outer != 1:
        return None
    return BatchPlace(place.dim, 1, size, place.inner)


def reshaped(place: BatchPlace, old: tuple[int, ...], new: tuple[int, ...]) -> list[BatchPlace]:
    """Where a place is after a reshape: all of it, or where that is cut its major part, or the
    dimension that begins where it begins.

    Several where that is open: a batch of one fits beside every dimension.
    """
    low = place.inner * prod(old[place.dim + 1 :])
    high = low * place.size
    whole: list[BatchPlace] = []
    parts: list[BatchPlace] = []
    for dim, length in enumerate(new):
        start = prod(new[dim + 1 :])
        end = start * length
        if not start or not high or end % high:
            continue
        if low % start == 0:
            whole.append(BatchPlace(dim, end // high, place.size, low // start))
        elif start < high and start % low == 0 and high % start == 0:
            parts.append(BatchPlace(dim, end // high, high // start, 1))
    alone = [p for p in whole if new[p.dim] == place.size]
    if whole or parts:
        return alone or whole or parts[:1]
    same = (d for d in range(len(new)) if new[d] > 1 and prod(new[:d]) == prod(old[: place.dim]))
    return [BatchPlace(dim, 1, new[dim], 1) for dim in same]


def lost_by(op: Operation, flow: BatchFlow) -> str | None:
    """The kind of reduction by which an op makes one of examples that its results do not hold;
    `choice` where it is none; None where the op loses none.
    """
    rule = get_rule(op)
    if rule is None:
        return None
    found: str | None = None
    for operand, mapping in zip(op.operands, rule.operands, strict=True):
        for place in flow.places.get(operand, ()):
            if op.name == "stablehlo.reshape":  # drops a batch of one, or what was chosen before
                return None if place.size in flow.sizes else CHOICE
            for factor in mapping[place.dim]:
                if rule.factor_sizes[factor] > 1:
                    # split, a gather is a sum of what each device has; of examples it is a choice
                    gathers = op.name == "stablehlo.gather"
                    kind = None if gathers else rule.reducers[factor]
                    found = found or kind or CHOICE
    return found
