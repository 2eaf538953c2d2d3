"""Ops that nobody wrote a sharding rule for, or that propagation has not seen: what is said of
them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xdsl.ir import Operation

from autopar.dialects.diagnostics import remark
from autopar.dialects.rules.access import op_label
from autopar.dialects.rules.registry import NO_RULE, TOLD, get_rule
from autopar.dialects.tensors import num_bytes, shape_of


def _is_unruled(op: Operation) -> bool:
    """Whether an op has no rule, though its work could be split."""
    return (op.name not in NO_RULE or op.name in TOLD) and get_rule(op) is None


def _is_dynamic(op: Operation) -> bool:
    """Whether an op reads or gives a tensor of dynamic shape, which has no rule."""
    return any(size < 0 for value in (*op.operands, *op.results) for size in shape_of(value.type))


def tell_unruled(ops: Iterable[Operation], num_devices: int, prefix: str = "") -> None:
    """Of those of some replicated ops that nobody wrote a rule for: a remark for each kind, at the
    first of it, where no pass before has said so."""
    kinds: dict[tuple[str, bool], list[Operation]] = {}
    for op in filter(_is_unruled, ops):
        kinds.setdefault((op_label(op), _is_dynamic(op)), []).append(op)
    for (label, is_dynamic), same in kinds.items():
        text = _replicated_text(same, num_devices, is_dynamic=is_dynamic)
        remark(same[0], prefix + text, topic=f"replicated: {label}, {is_dynamic}")


def tell_late(ops: Iterable[Operation], num_devices: int) -> None:
    """Of ops without a sharding in a program that has them, which a pass behind propagation made: a
    remark for each kind, at the first of it."""
    kinds: dict[str, list[Operation]] = {}
    for op in ops:
        if any(shape_of(result.type) for result in op.results):
            kinds.setdefault(op_label(op), []).append(op)
    for label, same in kinds.items():
        count = f", of {len(same)} such ops" if len(same) > 1 else ""
        remark(
            same[0],
            f"{label} has no sharding, as what a pass inserts behind propagation or auto-shard: "
            f"its result is gathered on all {num_devices} devices ({_result_bytes(same)} bytes "
            f"each{count}); run sharding-propagation behind that pass",
        )


def _result_bytes(ops: Iterable[Operation]) -> int:
    return sum(num_bytes(result.type) for op in ops for result in op.results)


def _replicated_text(ops: Sequence[Operation], num_devices: int, *, is_dynamic: bool) -> str:
    """What becomes of ops of one kind, and how they get a rule."""
    op = ops[0]
    label, devices = op_label(op), f"all {num_devices} devices"
    if is_dynamic:
        return f"{label} is of dynamic shape: it is replicated on {devices}"
    count = f", of {len(ops)} such ops" if len(ops) > 1 else ""
    return (
        f"{label} has no sharding rule: it is replicated on {devices} ({_result_bytes(ops)} result "
        f"bytes each{count}); {_registration(op)} gives it one"
    )


def _registration(op: Operation) -> str:
    is_call = op.name == "stablehlo.custom_call"
    return "register_custom_call_rule" if is_call else "register_sharding_rule"
