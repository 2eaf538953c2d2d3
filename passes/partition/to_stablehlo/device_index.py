"""Questions about the device and the grid: `index` values become tensors."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    DenseArrayBase,
    TensorType,
    i32,
)
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.utils.hints import isa

from autopar.dialects import stablehlo
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.stablehlo.elementwise import convert

from .lowering import DeviceLowering


def process_linear_index(lowering: DeviceLowering, op: Operation) -> list[SSAValue]:
    """The row-major number of the device."""
    return [as_index(op, 0, lowering.device_index(op))]


def process_multi_index(lowering: DeviceLowering, op: Operation) -> list[SSAValue]:
    """The device's coordinate along each of the axes (none named: all)."""
    attr = op.properties.get("axes")
    axes: Sequence[int] = attr.get_values() if isinstance(attr, DenseArrayBase) else ()  # pyright: ignore
    axes = axes or range(len(lowering.grid.axes))
    return [
        as_index(op, i, lowering.coordinate(lowering.refs([axis]), op))
        for i, axis in enumerate(axes)
    ]


def grid_shape(lowering: DeviceLowering, op: Operation) -> list[SSAValue]:
    """The size of each of the axes (none named: all)."""
    attr = op.properties.get("axes")
    axes: Sequence[int] = attr.get_values() if isinstance(attr, DenseArrayBase) else ()  # pyright: ignore
    axes = axes or range(len(lowering.grid.axes))
    return [
        as_index(op, i, lowering.constant(lowering.grid.shape[axis], op))
        for i, axis in enumerate(axes)
    ]


def as_index(op: Operation, result: int, value: SSAValue) -> SSAValue:
    """Makes the users of an `index` result use the tensor<i32> `value`: StableHLO has no index.

    Users may be arith.index_cast and tensor.from_elements of one element, which go.
    """
    stack = [op.results[result]]
    while stack:
        index = stack.pop()
        for use in list(index.uses):
            user = use.operation
            if user.name == "arith.index_cast":
                stack.append(user.results[0])
            elif user.name == "tensor.from_elements" and len(user.operands) == 1:
                _replace_from_elements(user, value)
            else:
                raise DiagnosticError(
                    user,
                    f"'{user.name}' op uses a device index; in StableHLO that is a tensor: make "
                    "it one by arith.index_cast and tensor.from_elements",
                )
        if index is not op.results[result]:
            index.owner.detach()
            index.owner.erase(safe_erase=False)
    return value


def _replace_from_elements(user: Operation, value: SSAValue) -> None:
    type = user.results[0].type
    assert isa(type, TensorType[Attribute]) and user.parent is not None
    element_type = type.element_type
    if element_type != i32:
        new = convert(value, element_type)
        user.parent.insert_op_before(new, user)
        value = new.results[0]
    if type.get_num_dims():
        reshape = stablehlo.ReshapeOp(value, type.get_shape())
        user.parent.insert_op_before(reshape, user)
        value = reshape.results[0]
    user.results[0].replace_all_uses_with(value)
    user.detach()
    user.erase()
