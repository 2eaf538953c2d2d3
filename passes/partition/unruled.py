"""Ops that nobody wrote a sharding rule for, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xdsl.ir import Operation

from autopar.dialects.diagnostics import remark
from autopar.dialects.rules.access import op_label
from autopar.dialects.rules.registry import NO_RULE, get_rule
from autopar.dialects.tensors import num_bytes, shape_of


def _is_unruled(op: Operation) -> bool:
    """Whether an op has no rule, and not on purpose."""
    return op.name not in NO_RULE and get_rule(op) is None


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


def _replicated_text(ops: Sequence[Operation], num_devices: int, *, is_dynamic: bool) -> str:
    """What becomes of ops of one kind, and how they get a rule."""
    op = ops[0]
    label, devices = op_label(op), f"all {num_devices} devices"
    if is_dynamic:
        return f"{label} is of dynamic shape: it is replicated on {devices}"
    result_bytes = sum(num_bytes(result.type) for op in ops for result in op.results)
    count = f", of {len(ops)} such ops" if len(ops) > 1 else ""
    return (
        f"{label} has no sharding rule: it is replicated on {devices} ({result_bytes} result "
        f"bytes each{count}); {_registration(op)} gives it one"
    )


def _registration(op: Operation) -> str:
    is_call = op.name == "stablehlo.custom_call"
    return "register_custom_call_rule" if is_call else "register_sharding_rule"
