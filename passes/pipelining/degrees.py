"""How values grow with the batch: a mean stays as it is, a sum over the batch grows with it.

The *degree* of a value is the power of the batch's size that it grows with, where the batch is
repeated: 0 of a mean, 1 of a sum, 1/2 of the norm of a sum's square root; constants that come of
the batch's size say what they are for the whole batch (`autopar.whole_batch`). A value that is a
sum over the examples, times a power of the batch's size, is *straight*: what the whole batch gives
is the sum of what the microbatches give, times a power of their number. A mean of a mean's square
is not, nor is a sum over normalised examples: of these a microbatch tells its own only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from math import log
from typing import Any, cast

import numpy as np
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, IntegerType
from xdsl.ir import Block, Operation, SSAValue

from autopar.dialects.autopar import WHOLE_BATCH
from autopar.dialects.constants import UnsupportedElementType, constant_array, is_splat
from autopar.dialects.rules.access import attribute
from autopar.dialects.rules.regions import MANUAL
from autopar.dialects.rules.registry import get_rule
from autopar.dialects.tensors import element_type

from .batch_flow import CHOICE, BatchFlow, inputs_of


class Special(Enum):
    """Degrees that are no numbers."""

    ZERO = "zero"
    """Of nothing but zeros: they are of every degree."""
    UNKNOWN = "unknown"
    """Of no power of the batch's size, as a mean plus a sum."""


Degree = float | Special
ZERO, UNKNOWN = Special.ZERO, Special.UNKNOWN

_PRODUCTS = ("stablehlo.multiply", "stablehlo.dot_general", "stablehlo.convolution")
_SUMMING = (
    *_PRODUCTS,
    "stablehlo.reduce",
    "stablehlo.scatter",
    "stablehlo.custom_call",
    "stablehlo.all_reduce",
)
"""What may make one value of the examples'."""
_ALIKE = (
    "stablehlo.abs",
    "stablehlo.maximum",
    "stablehlo.minimum",
    "stablehlo.clamp",
    "stablehlo.convert",
    "stablehlo.reduce",
    "stablehlo.reduce_precision",
    "stablehlo.sort",
)
"""Not linear, but a multiple of the operands gives the same multiple (a positive one)."""
_POWERS = {"stablehlo.sqrt": 0.5, "stablehlo.rsqrt": -0.5, "stablehlo.cbrt": 1 / 3}
_INVARIANT = ("stablehlo.compare", "stablehlo.sign", "stablehlo.is_finite", "stablehlo.atan2")
"""The same for a multiple of all operands."""


class Degrees:
    """The degrees of the values of a block of one microbatch, and which of them are straight."""

    def __init__(self, block: Block, flow: BatchFlow, count: int) -> None:
        self._flow = flow
        self._count = count
        self._degrees: dict[SSAValue, Degree] = {}
        """Those that are not 0."""
        self._curved: set[SSAValue] = set()
        self._follow(block)

    def of(self, value: SSAValue) -> Degree:
        return self._degrees.get(value, 0.0)

    def is_straight(self, value: SSAValue) -> bool:
        """Whether a value is a sum over the examples, times a power of their number."""
        return value not in self._curved

    def _set(self, value: SSAValue, degree: Degree, curved: bool) -> None:
        if degree != 0:
            self._degrees[value] = degree
        else:
            self._degrees.pop(value, None)
        if curved:
            self._curved.add(value)

    def _join(self, target: SSAValue, source: SSAValue) -> bool:
        """Lets `target` be what `source` is as well; whether that is news."""
        old, was_curved = self.of(target), target in self._curved
        new = joined((old, self.of(source)))
        self._set(target, new, was_curved or source in self._curved)
        return new != old or (target in self._curved) != was_curved

    def _copy(self, targets: Iterable[SSAValue], sources: Iterable[SSAValue]) -> None:
        for target, source in zip(targets, sources, strict=True):
            self._set(target, self.of(source), source in self._curved)

    def _follow(self, block: Block) -> None:
        for op in block.ops:
            match op.name:
                case "stablehlo.while":
                    self._loop(op)
                case "stablehlo.case" | "stablehlo.if":
                    self._branches(op)
                case "stablehlo.constant":
                    self._constant(op)
                case "stablehlo.optimization_barrier":
                    self._copy(op.results, op.operands)
                case _ if op.name == MANUAL:
                    inner = op.regions[0].block
                    self._copy(inner.args, op.operands)
                    self._follow(inner)
                    self._copy(op.results, _handed_on(inner))
                case _:
                    self._op(op)

    def _loop(self, op: Operation) -> None:
        condition, body = (region.block for region in op.regions)
        self._copy(op.results, op.operands)
        changed = True
        while changed:
            for block in (condition, body):
                self._copy(block.args, op.results)
                self._follow(block)
            pairs = zip(op.results, _handed_on(body), strict=True)
            changed = any([self._join(result, value) for result, value in pairs])
        if self._flow.depends(_handed_on(condition)[0]):
            for result in op.results:
                self._curved.add(result)

    def _branches(self, op: Operation) -> None:
        chosen = self._flow.depends(op.operands[0])
        for number, region in enumerate(op.regions):
            self._follow(region.block)
            for result, value in zip(op.results, _handed_on(region.block), strict=True):
                if number:
                    self._join(result, value)
                else:
                    self._set(result, self.of(value), chosen or value in self._curved)

    def _constant(self, op: Operation) -> None:
        value = attribute(op, "value")
        if not isinstance(value, DenseIntOrFPElementsAttr):
            return
        data = cast(DenseIntOrFPElementsAttr[Any], value)
        if len(data.data.data) > 16:  # a splat holds one element
            return
        whole = op.attributes.get(WHOLE_BATCH)
        if whole is not None:
            self._set(op.results[0], self._sized(_number(data), _number(cast(Any, whole))), False)
        elif _number(data) == 0 or abs(_number(data)) == np.inf:
            self._set(op.results[0], ZERO, False)

    def _sized(self, micro: float, whole: float) -> Degree:
        """The power of the batch's size that a number is."""
        if not micro or not whole or micro / whole < 0:
            return UNKNOWN
        power = log(whole / micro) / log(self._count)
        near = round(2 * power) / 2
        return near if abs(power - near) < 1e-4 else UNKNOWN

    def _op(self, op: Operation) -> None:
        flow, operands = self._flow, op.operands
        if not op.results:
            return
        known = any(v in self._degrees for v in operands)
        curved = any(v in self._curved for v in inputs_of(op))
        is_example = any(map(flow.is_per_example, operands))
        lost = self._lost(op) if is_example and op.name in _SUMMING else None
        degree: Degree = 0.0
        if known or lost == "sum":
            degree = degree_of(op, [self.of(v) for v in operands], lost == "sum")
        if not curved:
            varying = [i for i, v in enumerate(operands) if flow.depends(v)]
            reduced = [i for i in varying if not flow.is_per_example(operands[i])]
            curved = bool(reduced) and (is_example or not self._is_linear(op, varying))
            curved |= lost == CHOICE or (lost is not None and flow.is_per_example(op.results[0]))
            if lost == "sum" and op.name == "stablehlo.scatter":
                curved |= any(self.of(v) is not ZERO for v in operands[: len(op.results)])
        for result in op.results:
            self._set(result, degree, curved)

    def _lost(self, op: Operation) -> str | None:
        """The kind of reduction by which the op makes one of examples, None where it does not."""
        rule = get_rule(op)
        if rule is None:
            return None
        kept = {f for mapping in rule.results for factors in mapping for f in factors}
        for operand, mapping in zip(op.operands, rule.operands, strict=True):
            for place in self._flow.places.get(operand, ()):
                for factor in mapping[place.dim]:
                    if factor not in kept and (rule.factor_sizes[factor] > 1 or place.size == 1):
                        return rule.reducers[factor] or CHOICE
        return None

    def _is_linear(self, op: Operation, varying: Sequence[int]) -> bool:
        """Whether a result made of reduced values is linear in them, nothing else added."""
        if op.name == "stablehlo.convert":
            return not isinstance(element_type(op.results[0].type), IntegerType) or isinstance(
                element_type(op.operands[0].type), IntegerType
            )
        rule = get_rule(op)
        for group in () if rule is None else rule.linear:
            others = set(group) - set(varying)
            if set(varying) <= set(group) and all(self.of(op.operands[i]) is ZERO for i in others):
                return True
        return False


def degree_of(op: Operation, degrees: Sequence[Degree], sums: bool = False) -> Degree:
    """The degree of an op's results by those of its operands; `sums`: it sums up the examples."""
    plus = 1.0 if sums else 0.0
    if UNKNOWN in degrees:
        return UNKNOWN
    if op.name in _PRODUCTS:
        return ZERO if ZERO in degrees else sum(map(_as_number, degrees)) + plus
    if op.name == "stablehlo.divide":
        over, under = degrees
        return ZERO if over is ZERO else _as_number(over) - _as_number(under)
    if op.name in _POWERS:
        (degree,) = degrees
        return degree if degree is ZERO else _as_number(degree) * _POWERS[op.name]
    if op.name == "stablehlo.power" and degrees[0] not in (0, ZERO):
        power = _splat_of(op.operands[1])
        return UNKNOWN if power is None else _as_number(degrees[0]) * power
    if op.name == "stablehlo.scatter":
        held, count = len(op.results), len(op.operands)
        added = [_as_number(d) + plus for d in degrees[held + 1 :] if d is not ZERO]
        places = degrees[held] in (0, ZERO)
        return joined((*degrees[:held], *added)) if places and count else UNKNOWN
    rule = get_rule(op)
    linear = () if rule is None else rule.linear
    scaled = [i for i, d in enumerate(degrees) if d not in (0, ZERO)]
    alike = op.name in _ALIKE or any(set(scaled) <= set(group) for group in linear)
    if not scaled:
        zero = bool(degrees) and all(d is ZERO for d in degrees) and bool(linear)
        return ZERO if zero and not sums else plus
    if op.name in _INVARIANT:
        return UNKNOWN if joined(degrees) is UNKNOWN else 0.0
    if not alike:
        return UNKNOWN
    groups = [group for group in linear if set(scaled) <= set(group)]
    members = groups[0] if groups else tuple(range(len(degrees)))
    found = joined(degrees[i] for i in members)
    return found if isinstance(found, Special) else found + plus


def joined(degrees: Iterable[Degree]) -> Degree:
    """The degree of what is added up of values of these."""
    found = {degree for degree in degrees if degree is not ZERO}
    if not found:
        return ZERO
    return found.pop() if len(found) == 1 else UNKNOWN


def _as_number(degree: Degree) -> float:
    return 0.0 if isinstance(degree, Special) else degree


def _number(data: DenseIntOrFPElementsAttr[Any]) -> float:
    """The first element; 1 of types that NumPy does not have."""
    try:
        value = constant_array(data).reshape(-1)[:1]
    except UnsupportedElementType:
        return 1.0
    return float(value[0].real) if value.size else 0.0


def _splat_of(value: SSAValue) -> float | None:
    """The one number that a constant holds, in whatever shape."""
    while isinstance(value.owner, Operation) and value.owner.name == "stablehlo.broadcast_in_dim":
        value = value.owner.operands[0]
    if not isinstance(value.owner, Operation) or value.owner.name != "stablehlo.constant":
        return None
    data = attribute(value.owner, "value")
    if not isinstance(data, DenseIntOrFPElementsAttr):
        return None
    found = cast(DenseIntOrFPElementsAttr[Any], data)
    return _number(found) if is_splat(found) else None


def _handed_on(block: Block) -> Sequence[SSAValue]:
    last = block.last_op
    assert last is not None
    return last.operands
