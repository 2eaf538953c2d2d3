"""Whether a value can be put together from microbatches: example by example.

A value is computed *by example* at a place (a dimension seen as [outer, batch, inner]) if what it
holds for an example is the same function of this example alone, whichever position the example has
in the batch. Asked of a result, the question goes back through the program: an op keeps the
property along a factor that passes through it whole, asks the same of the operands that hold the
factor, and of the others that they do not depend on the batch. A value without the batch has it
where it is the same for all positions. Random bits count as such: every microbatch draws its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from xdsl.dialects.builtin import DenseIntOrFPElementsAttr
from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from autopar.dialects.constants import is_splat
from autopar.dialects.rules.access import attribute, integer
from autopar.dialects.rules.core import FactorKind, ShardingRule
from autopar.dialects.rules.registry import get_rule
from autopar.dialects.sdy import ManualComputationOp
from autopar.dialects.tensors import element_type, is_bool, is_tensor, shape_of
from autopar.dialects.traits import Collective

from .batch_flow import BatchFlow, BatchPlace, across_border, inputs_of, reshaped

_OWN_DEVICE = ("stablehlo.partition_id", "stablehlo.replica_id")

Question = tuple[SSAValue, BatchPlace]


class Examples:
    """Answers for the values of one function."""

    def __init__(self, block: Block, flow: BatchFlow) -> None:
        self._flow = flow
        self._block = block
        self._random: set[SSAValue] = set()
        self._find_random(block)

    def place_of(self, value: SSAValue) -> BatchPlace | None:
        """Where the value is computed by example; None: it mixes examples, or has a part of them
        only."""
        for place in sorted(self._flow.places.get(value, ())):
            if place.size in self._flow.sizes and self._holds((value, place)):
                return place
        return None

    def joins_alike(self, op: Operation) -> bool:
        """Whether an op that makes one of examples reads them by example, and beside them nothing
        that tells their positions in the batch, as `weights[positions] @ examples` does."""
        rule = get_rule(op)
        if rule is None:
            return all(self.place_of(v) for v in op.operands if self._flow.is_per_example(v))
        return all(
            any(self._is_alike(op, rule, number, place) for place in sorted(places))
            for number, operand in enumerate(op.operands)
            if (places := self._flow.places.get(operand))
        )

    def _is_alike(self, op: Operation, rule: ShardingRule, number: int, place: BatchPlace) -> bool:
        """Whether an operand, and what is read at the same positions, is by example at a place."""
        if place.size not in self._flow.sizes or not self._holds((op.operands[number], place)):
            return False
        held = rule.operands[number][place.dim]
        return all(
            self._holds((other, BatchPlace(dim, place.outer, place.size, place.inner)))
            for other, mapping in zip(op.operands, rule.operands, strict=True)
            for dim, factors in enumerate(mapping)
            if len(factors) == 1 and factors == held
        )

    def _holds(self, question: Question) -> bool:
        """Whether no value that this one is made of says no (loops: as far as nothing speaks
        against it)."""
        seen: set[Question] = {question}
        stack = [question]
        while stack:
            following = self._asked(*stack.pop())
            if following is None:
                return False
            for other in following:
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        return True

    def _asked(self, value: SSAValue, place: BatchPlace) -> list[Question] | None:
        """What must hold of other values; None: the value is not by example."""
        if value in self._random and not self._flow.depends(value):
            return []
        if isinstance(value, BlockArgument):
            return self._argument(value, place)
        op = value.owner
        assert isinstance(op, Operation)
        index = next(i for i, result in enumerate(op.results) if result is value)
        if op.name == "stablehlo.constant":
            return None if _splat(value) is None else []
        if op.name in ("stablehlo.iota", "chlo.constant_like"):
            own = op.name == "stablehlo.iota" and integer(op, "iota_dimension") == place.dim
            return None if own else []
        if op.name == "stablehlo.optimization_barrier":
            return [(op.operands[index], place)]
        if op.name == "stablehlo.reshape":
            return self._reshape(op, place)
        if op.name == "stablehlo.while":
            return (
                None
                if self._is_decided(op)
                else [(op.operands[index], place), (_end(op, 1, index), place)]
            )
        if op.name in ("stablehlo.case", "stablehlo.if"):
            if self._flow.depends(op.operands[0]):
                return None
            return [(_end(op, region, index), place) for region in range(len(op.regions))]
        if isinstance(op, ManualComputationOp):
            return self._manual(op, index, place)
        return self._by_rule(op, index, place)

    def _argument(self, value: BlockArgument, place: BatchPlace) -> list[Question] | None:
        if value.owner is self._block:
            places = self._flow.places.get(value)
            if places is None:
                return [] if place.size == 1 else None
            return [] if place in places or place.size == 1 else None
        loop = value.owner.parent_op()
        if isinstance(loop, ManualComputationOp):
            operand = loop.operands[value.index]
            outside = across_border(place, shape_of(value.type), shape_of(operand.type))
            return None if outside is None else [(operand, outside)]
        if loop is None or loop.name != "stablehlo.while":
            return None
        return [(loop.operands[value.index], place), (_end(loop, 1, value.index), place)]

    def _manual(
        self, op: ManualComputationOp, index: int, place: BatchPlace
    ) -> list[Question] | None:
        """A body that runs per device: where its axes split the batch, they split it the same
        way in all arguments, and devices must neither exchange data nor know which they are."""
        value = _end(op, 0, index)
        inside = across_border(place, shape_of(op.results[index].type), shape_of(value.type))
        if inside is None:
            return None
        if inside != place:
            split = {str(op.out_shardings.data[index].sharding.dims[place.dim])}
            for operand, sharding in zip(op.operands, op.in_shardings.data, strict=True):
                for own in self._flow.places.get(operand, ()):
                    split.add(str(sharding.sharding.dims[own.dim]))
            tells = any(o.has_trait(Collective) or o.name in _OWN_DEVICE for o in op.body.walk())
            if len(split) != 1 or tells:
                return None
        return [(value, inside)]

    def _is_decided(self, loop: Operation) -> bool:
        """Whether the batch decides how often a loop runs."""
        return self._flow.depends(_end(loop, 0, 0))

    def _reshape(self, op: Operation, place: BatchPlace) -> list[Question] | None:
        source = op.operands[0]
        old, new = shape_of(source.type), shape_of(op.results[0].type)
        found = [p for p in reshaped(place, new, old) if p.size == place.size]
        known = self._flow.places.get(source, ())
        found = [p for p in found if p in known] or found
        return [(source, found[0])] if found else None

    def _by_rule(self, op: Operation, index: int, place: BatchPlace) -> list[Question] | None:
        if op.regions and any(self._flow.depends(v) for v in _captured(op)):
            return None
        rule = get_rule(op)
        if rule is None:
            return None
        held = rule.results[index][place.dim]
        if op.name == "stablehlo.reduce_window" and place.size == 1:
            return None  # a cumulative sum over a batch of one looks like a window of one
        if len(held) != 1 or rule.kinds[held[0]] is not FactorKind.PASS_THROUGH:
            return None
        asked: list[Question] = []
        for number, (operand, mapping) in enumerate(zip(op.operands, rule.operands, strict=True)):
            dims = [dim for dim, factors in enumerate(mapping) if held[0] in factors]
            if not dims:
                if self._flow.depends(operand) or _writes_at_positions(op, number):
                    return None
                continue
            for dim in dims:
                if len(mapping[dim]) != 1:
                    return None
                asked.append((operand, BatchPlace(dim, place.outer, place.size, place.inner)))
        return asked

    # ---- Random bits -----------------------------------------------------------------------------

    def _find_random(self, block: Block) -> None:
        """Marks what is computed from random bits: xor of unsigned integers (Threefry), or an
        op that draws them."""
        for op in block.ops:
            if op.name == "stablehlo.while":
                self._find_random_in_loop(op)
                continue
            for region in op.regions:
                self._find_random(region.block) if region.blocks else None
            draws = op.name in ("stablehlo.rng", "stablehlo.rng_bit_generator") or (
                op.name == "stablehlo.xor" and _is_unsigned(op.results[0])
            )
            ends = [region.block.last_op for region in op.regions if region.blocks]
            inputs = [*op.operands, *(v for end in ends if end is not None for v in end.operands)]
            if draws or any(v in self._random for v in inputs):
                self._random.update(op.results)

    def _find_random_in_loop(self, op: Operation) -> None:
        block = op.regions[1].block
        end = block.last_op
        assert end is not None
        changed = True
        while changed:
            changed = False
            for arg, start in zip(block.args, op.operands, strict=True):
                if start in self._random:
                    self._random.add(arg)
            self._find_random(block)
            for arg, value in zip(block.args, end.operands, strict=True):
                if value in self._random and arg not in self._random:
                    self._random.add(arg)
                    changed = True
        for arg, result in zip(block.args, op.results, strict=True):
            if arg in self._random:
                self._random.add(result)


def _end(op: Operation, region: int, index: int) -> SSAValue:
    """What a region returns."""
    last = op.regions[region].block.last_op
    assert last is not None
    return last.operands[index]


def _captured(op: Operation) -> Iterator[SSAValue]:
    """What the regions of an op read from outside."""
    operands = set(op.operands)
    inner = {v for region in op.regions for b in region.blocks for v in b.args}
    inner |= {v for region in op.regions for o in region.walk() for v in o.results}
    yield from (v for v in inputs_of(op) if v not in operands and v not in inner)


def _writes_at_positions(op: Operation, number: int) -> bool:
    """Whether an operand that lacks the batch is written at some positions of it only."""
    if op.name == "stablehlo.dynamic_update_slice":
        return number == 1
    if op.name == "stablehlo.scatter":
        return number > len(op.results)
    return False


def _is_unsigned(value: SSAValue) -> bool:
    if not is_tensor(value.type) or is_bool(value.type):
        return False
    return str(element_type(value.type)).startswith("ui")


def _splat(value: SSAValue) -> DenseIntOrFPElementsAttr[Any] | None:
    """The data of a constant whose elements are all the same."""
    assert isinstance(value.owner, Operation)
    data = cast(DenseIntOrFPElementsAttr[Any], attribute(value.owner, "value"))
    is_dense = isinstance(cast(object, data), DenseIntOrFPElementsAttr)
    return data if is_dense and is_splat(data) else None
