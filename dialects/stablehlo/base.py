"""Shared bases of the StableHLO operations: operand and result patterns, traits, small checks."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence

from xdsl.dialects.builtin import DenseArrayBase, TensorType, i1, i64
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    base,
    irdl_op_definition,
    operand_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from ..tensors import element_type, shape_of
from ..traits import Elementwise, compatible_shapes

__all__ = [
    "AnyTensor",
    "BinaryElementwiseOp",
    "BoolArray",
    "I64Array",
    "StableHLOOp",
    "UnaryElementwiseOp",
    "check",
    "check_dims",
    "compatible_shapes",
    "element_type",
    "irdl_op_definition",
    "shape_of",
]

AnyTensor = base(TensorType[Attribute])
I64Array = DenseArrayBase.constr(i64)
BoolArray = DenseArrayBase.constr(i1)


def check(condition: bool, op: Operation, message: str) -> None:
    """Raise a verification error that names the operation."""
    if not condition:
        raise VerifyException(f"'{op.name}' {message}")


def check_dims(op: Operation, what: str, dims: Sequence[int], rank: int) -> None:
    """Dimensions must lie in [0, rank) and differ from each other."""
    check(
        all(0 <= dim < rank for dim in dims),
        op,
        f"{what} = {list(dims)} is out of range for rank {rank}",
    )
    check(len(set(dims)) == len(dims), op, f"{what} = {list(dims)} names a dimension twice")


class StableHLOOp(IRDLOperation, ABC):
    """Base of all operations here."""


class UnaryElementwiseOp(StableHLOOp, ABC):
    """One tensor in, one tensor of the same shape out."""

    operand = operand_def(AnyTensor)
    result = result_def(AnyTensor)

    traits = traits_def(Pure(), Elementwise())

    def __init__(self, operand: SSAValue, result_type: Attribute | None = None):
        super().__init__(operands=[operand], result_types=[result_type or operand.type])


class BinaryElementwiseOp(StableHLOOp, ABC):
    """Two tensors in, one tensor of the same shape out."""

    lhs = operand_def(AnyTensor)
    rhs = operand_def(AnyTensor)
    result = result_def(AnyTensor)

    traits = traits_def(Pure(), Elementwise())

    def __init__(self, lhs: SSAValue, rhs: SSAValue, result_type: Attribute | None = None):
        super().__init__(operands=[lhs, rhs], result_types=[result_type or lhs.type])
