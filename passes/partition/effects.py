"""Side effects run once: on the first device, with full values.

A callback (jax.debug.print, io_callback, pure_callback) is a custom_call: all devices run it.
It is put into a branch that only device 0 takes; what it returns is summed over all devices, the
others adding zeros, so that everybody has it. So are the numbers of `stablehlo.rng`.
"""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerAttr, StringAttr, TensorType
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from autopar.dialects import stablehlo
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.shard import AllReduceOp, make_collective
from autopar.dialects.tensors import is_bool, tensor_type

from .local_builder import LocalBuilder
from .specs import AxisTable

_PYTHON_CALLBACKS = ("xla_ffi_python_cpu_callback", "xla_ffi_python_gpu_callback")


EFFECTS = ("stablehlo.custom_call", "stablehlo.rng")
"""The ops that `is_effect` may be true of."""


def is_python_callback(op: Operation) -> bool:
    """Whether the op calls one of the program's host callbacks."""
    target = op.properties.get("call_target_name")
    return isinstance(target, StringAttr) and target.data in _PYTHON_CALLBACKS


def is_effect(op: Operation) -> bool:
    """Whether the op must run once: a custom_call with side effects or into Python, or numbers of
    the device's own random generator, of which each device would make others.

    DiagnosticError for a call that runs nowhere once the program is partitioned.
    """
    if op.name == "stablehlo.rng":
        return True
    if op.name != "stablehlo.custom_call":
        return False
    effect = op.properties.get("has_side_effect")
    if isinstance(effect, IntegerAttr) and effect.value.data:
        return True
    target = op.properties.get("call_target_name")
    if isinstance(target, StringAttr) and target.data == "CustomSPMDPartitioning":
        raise DiagnosticError(
            op,
            "a function with jax.custom_partitioning was lowered under a mesh: what is left of it "
            "is a call that only XLA's partitioner can take. Lower it for one device, or let "
            "autopar.parallelize do it: its body is then part of the program",
        )
    return is_python_callback(op)


def run_once(op: Operation, table: AxisTable) -> list[SSAValue]:
    """Moves `op` into a branch of device 0; the values that stand for its results."""
    if any(not isinstance(v.type, TensorType) for v in (*op.operands, *op.results)):
        raise DiagnosticError(
            op,
            f"'{op.name}' is an ordered effect (it takes a token), which a partitioned program "
            "cannot run: use the unordered form (ordered=False)",
        )
    builder = LocalBuilder(table, op)
    first = builder.compare(builder.device_index(), "EQ", builder.index(0))
    types = [r.type for r in op.results]
    call = op.clone()
    taken, other = Block(), Block()
    taken.add_op(call)
    taken.add_op(stablehlo.ReturnOp(*call.results))
    zeros = [_zeros(t) for t in types]
    for zero in zeros:
        other.add_op(zero)
    other.add_op(stablehlo.ReturnOp(*(z.results[0] for z in zeros)))
    branch = stablehlo.IfOp.create(
        operands=[first], result_types=types, regions=[Region(taken), Region(other)]
    )
    branch.location = op.location
    assert op.parent is not None
    op.parent.insert_op_before(branch, op)
    axes = range(len(table.refined.axes))
    return [
        builder.insert(
            make_collective(
                AllReduceOp,
                result,
                table.refined.name,
                axes,
                reduction="bitwise_or" if is_bool(result.type) else "sum",
            )
        )
        for result in branch.results
    ]


def _zeros(type: Attribute) -> Operation:
    return stablehlo.splat_constant(0, tensor_type(type))
