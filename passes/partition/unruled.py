"""Ops that nobody wrote a sharding rule for, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import Operation

from autopar.dialects.rules.access import op_label
from autopar.dialects.rules.registry import NO_RULE, get_rule
from autopar.dialects.tensors import num_bytes, shape_of


def is_unruled(op: Operation) -> bool:
    """Whether an op has no rule, and not on purpose."""
    return op.name not in NO_RULE and get_rule(op) is None


def is_dynamic(op: Operation) -> bool:
    """Whether an op reads or gives a tensor of dynamic shape, which has no rule."""
    return any(size < 0 for value in (*op.operands, *op.results) for size in shape_of(value.type))


def replicated_text(ops: Sequence[Operation], num_devices: int) -> str:
    """What becomes of ops of one kind (`op_label`, `is_dynamic`), and how they get a rule."""
    op = ops[0]
    label, devices = op_label(op), f"all {num_devices} devices"
    if is_dynamic(op):
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
