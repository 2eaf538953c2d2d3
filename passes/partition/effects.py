"""Side effects run once: on the first device, with full values.

A callback (jax.debug.print, io_callback, pure_callback) is a custom_call: all devices run it.
It is put into a branch that only device 0 takes; what it returns is summed over all devices, the
others adding nothing, so that everybody has it. So are the numbers of `stablehlo.rng`.

The body of a manual computation is a program for each place along its manual axes: there an effect
runs once for each of these, with the values of that place.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import AnyFloat, IntegerAttr, IntegerType, StringAttr, TensorType
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from autopar.dialects import stablehlo
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.shard import AllReduceOp, make_collective
from autopar.dialects.tensors import is_bool, ranked_tensor, tensor_type

from .local_builder import LocalBuilder, splat_neutral
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


def refuse_ordered(op: Operation) -> None:
    """DiagnosticError where the effect takes or gives a token."""
    if any(not isinstance(v.type, TensorType) for v in (*op.operands, *op.results)):
        raise DiagnosticError(
            op,
            f"'{op.name}' is an ordered effect (it takes a token), which a partitioned program "
            "cannot run: use the unordered form (ordered=False)",
        )


def run_once(op: Operation, table: AxisTable, axes: Sequence[int]) -> list[SSAValue]:
    """Moves `op` into a branch of the first device along `axes` (all that are not manual); the
    values that stand for its results."""
    builder = LocalBuilder(table, op)
    is_whole_grid = len(axes) == len(table.refined.axes)
    index = (
        builder.device_index() if is_whole_grid else builder.per_device(builder.part_index(axes))
    )
    first = builder.compare(index, "EQ", builder.index(0))
    types = [_bits_type(result.type) for result in op.results]
    call = op.clone()
    taken, other = Block([call]), Block()
    bits = [_retyped(taken, v, t) for v, t in zip(call.results, types, strict=True)]
    taken.add_op(stablehlo.ReturnOp(*bits))
    rest = [splat_neutral("sum", t) for t in types]
    other.add_ops([*rest, stablehlo.ReturnOp(*(constant.results[0] for constant in rest))])
    branch = stablehlo.IfOp.create(
        operands=[first], result_types=types, regions=[Region(taken), Region(other)]
    )
    branch.location = op.location
    assert op.parent is not None
    op.parent.insert_op_before(branch, op)
    sums = [
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
    return [
        value if value.type == result.type else builder.op("bitcast_convert", [value], result.type)
        for value, result in zip(sums, op.results, strict=True)
    ]


def _bits_type(type: Attribute) -> TensorType[Attribute]:
    """The type whose sum with zeros keeps every bit: of floats integers, since XLA:CPU sums up
    floats from +0.0, which makes +0.0 of -0.0."""
    tensor = tensor_type(type)
    element = tensor.element_type
    if not isinstance(element, AnyFloat) or element.bitwidth not in (8, 16, 32, 64):
        return tensor
    return ranked_tensor(IntegerType(element.bitwidth), tensor.get_shape(), tensor.encoding)


def _retyped(block: Block, value: SSAValue, type: Attribute) -> SSAValue:
    """The bits of `value` as another type, at the end of a block."""
    if value.type == type:
        return value
    op = stablehlo.BitcastConvertOp.create(operands=[value], result_types=[type])
    block.add_op(op)
    return op.results[0]
