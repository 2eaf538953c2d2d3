"""Values that are computed from nothing: iotas, constants, and what elementwise ops and broadcasts
make of them. Where one does not lie as it has to, each device computes its part: no bytes move.
"""

from __future__ import annotations

from xdsl.ir import Operation, OpResult, SSAValue

from autopar.dialects.autopar import STRATEGY, ReshardOp, StrategyAttr
from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.core import FactorKind, ShardingRule
from autopar.dialects.rules.registry import get_rule, op_classes

from .specs import Spec
from .splats import copy_splat, splat_of
from .strategy import dims_of
from .value_specs import ValueSpecs

_LIMIT = 16
"""The most ops that are computed once more, rather than one result moved."""


def computed_anew(value: SSAValue, spec: Spec, specs: ValueSpecs) -> list[Operation]:
    """Ops, in no block yet, whose last one makes `value` where `spec` says, of others that lie
    where they have to; [] where that takes more than elementwise ops on iotas and constants."""
    if not _is_made(value):
        return []
    ops: list[Operation] = []
    if _compute(value, spec, specs, {}, ops) is not None:
        return ops
    for op in reversed(ops):
        op.erase(safe_erase=False)
    return []


def _is_made(value: SSAValue) -> bool:
    return type(value) is OpResult and (
        value.op.name == "stablehlo.iota"
        or (
            value.op.name.startswith("stablehlo.")
            and op_classes().get(value.op.name) in ("elementwise", "broadcast")
        )
    )


def _compute(
    value: SSAValue,
    spec: Spec,
    specs: ValueSpecs,
    made: dict[tuple[SSAValue, Spec], SSAValue],
    ops: list[Operation],
) -> SSAValue | None:
    if specs.of.get(value) == spec:
        return value
    known = made.get((value, spec))
    if known is not None:
        return known
    if type(value) is not OpResult or len(ops) >= _LIMIT:
        return None
    op = value.op
    if type(op) is ReshardOp:
        return _compute(op.input, spec, specs, made, ops)
    if splat_of(value) is not None:
        copy = copy_splat(value)
    else:
        rule = get_rule(op) if _is_made(value) else None
        factors = None if rule is None else _factors(rule, spec)
        if rule is None or factors is None:
            return None
        operands: list[SSAValue] = []
        for operand, mapping in zip(operands_of(op), rule.operands, strict=True):
            part = _compute(operand, Spec(dims_of(mapping, factors)), specs, made, ops)
            if part is None:
                return None
            operands.append(part)
        table = specs.table
        copy = type(op).create(
            operands=operands,
            result_types=[value.type],
            properties=op.properties,
            attributes={STRATEGY: StrategyAttr(tuple(table.axes(axes) for axes in factors))},
        )
    specs.record(copy, [spec])
    ops.append(copy)
    made[(value, spec)] = copy.results[0]
    return copy.results[0]


def _factors(rule: ShardingRule, spec: Spec) -> list[tuple[int, ...]] | None:
    """The axes of each factor if the only result is to lie so; None where the op cannot."""
    factors: list[tuple[int, ...]] = [()] * rule.num_factors
    for held, axes in zip(rule.results[0], spec.dims, strict=True):
        if axes:
            if len(held) != 1 or rule.kinds[held[0]] is not FactorKind.PASS_THROUGH:
                return None
            factors[held[0]] = axes
    return factors
