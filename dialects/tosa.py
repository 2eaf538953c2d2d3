"""tosa, as far as programs that are not StableHLO use it: xDSL's dialect with another matmul.

xDSL's tosa.matmul wants four operands and a leading dimension of 1; LLVM 22 wants four and LLVM 19
two, and neither asks for the 1. This one takes both.
"""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects import tosa as xdsl_tosa
from xdsl.dialects.builtin import DYNAMIC_INDEX, TensorType
from xdsl.ir import Attribute, Dialect
from xdsl.irdl import (
    AnyAttr,
    IRDLOperation,
    VarConstraint,
    irdl_op_definition,
    operand_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.hints import isa


@irdl_op_definition
class MatMulOp(IRDLOperation):
    """A batch of matrix products: (N, H, C) x (N, C, W) -> (N, H, W)."""

    name = "tosa.matmul"

    T: ClassVar = VarConstraint("T", AnyAttr())

    a = operand_def(TensorType.constr(T))
    b = operand_def(TensorType.constr(T))
    zero_points = var_operand_def(TensorType)
    """None, or the two operands' zero points (LLVM 22)."""
    output = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "operands attr-dict `:` functional-type(operands, results)"

    def verify_(self) -> None:
        shapes: list[tuple[int, ...]] = []
        for name, value in (("a", self.a), ("b", self.b), ("output", self.output)):
            type = value.type
            assert isa(type, TensorType[Attribute])
            if type.get_num_dims() != 3:
                raise VerifyException(f"'tosa.matmul' op: {name} must have rank 3, found {type}")
            shapes.append(type.get_shape())
        (n, h, c), (n2, c2, w), result = shapes
        if len(self.zero_points) not in (0, 2):
            raise VerifyException(
                f"'tosa.matmul' op has {2 + len(self.zero_points)} operands, expected 2 or 4"
            )
        for what, left, right in (
            ("batch dimensions of a and b", n, n2),
            ("contracted dimensions of a and b", c, c2),
            ("batch dimensions of a and the output", n, result[0]),
            ("rows of a and the output", h, result[1]),
            ("columns of b and the output", w, result[2]),
        ):
            if left != right and DYNAMIC_INDEX not in (left, right):
                raise VerifyException(f"'tosa.matmul' op: {what} differ: {left} and {right}")


Tosa = Dialect(
    "tosa",
    [MatMulOp, *(op for op in xdsl_tosa.TOSA.operations if op is not xdsl_tosa.MatMulOp)],
    list(xdsl_tosa.TOSA.attributes),
)
