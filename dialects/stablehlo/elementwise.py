"""Elementwise operations."""

from __future__ import annotations

from abc import ABC

from xdsl.dialects.builtin import IntegerAttr, TensorType, i1
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import operand_def, opt_prop_def, prop_def, result_def, traits_def
from xdsl.traits import Commutative, Pure

from ..tensors import is_tensor
from ..traits import Elementwise
from .attributes import ComparisonDirection, ComparisonType, ResultAccuracy
from .base import (
    AnyTensor,
    BinaryElementwiseOp,
    StableHLOOp,
    UnaryElementwiseOp,
    irdl_op_definition,
)


class TranscendentalOp(UnaryElementwiseOp, ABC):
    """A unary function that may demand an accuracy."""

    result_accuracy = opt_prop_def(ResultAccuracy)


@irdl_op_definition
class AbsOp(UnaryElementwiseOp):
    """Absolute value (modulus of complex values)."""

    name = "stablehlo.abs"


@irdl_op_definition
class CbrtOp(TranscendentalOp):
    """Cube root."""

    name = "stablehlo.cbrt"


@irdl_op_definition
class CeilOp(UnaryElementwiseOp):
    """Smallest integral value not below the operand."""

    name = "stablehlo.ceil"


@irdl_op_definition
class ConvertOp(UnaryElementwiseOp):
    """Conversion to another element type."""

    name = "stablehlo.convert"


@irdl_op_definition
class CosineOp(TranscendentalOp):
    """Cosine."""

    name = "stablehlo.cosine"


@irdl_op_definition
class ClzOp(UnaryElementwiseOp):
    """Number of leading zero bits."""

    name = "stablehlo.count_leading_zeros"


@irdl_op_definition
class ExpOp(TranscendentalOp):
    """e to the operand."""

    name = "stablehlo.exponential"


@irdl_op_definition
class Expm1Op(TranscendentalOp):
    """e to the operand, minus one."""

    name = "stablehlo.exponential_minus_one"


@irdl_op_definition
class FloorOp(UnaryElementwiseOp):
    """Largest integral value not above the operand."""

    name = "stablehlo.floor"


@irdl_op_definition
class ImagOp(UnaryElementwiseOp):
    """Imaginary part."""

    name = "stablehlo.imag"


@irdl_op_definition
class IsFiniteOp(UnaryElementwiseOp):
    """Whether a value is neither infinite nor NaN."""

    name = "stablehlo.is_finite"


@irdl_op_definition
class LogOp(TranscendentalOp):
    """Natural logarithm."""

    name = "stablehlo.log"


@irdl_op_definition
class Log1pOp(TranscendentalOp):
    """Logarithm of one plus the operand."""

    name = "stablehlo.log_plus_one"


@irdl_op_definition
class LogisticOp(TranscendentalOp):
    """Logistic function."""

    name = "stablehlo.logistic"


@irdl_op_definition
class NegOp(UnaryElementwiseOp):
    """Negation."""

    name = "stablehlo.negate"


@irdl_op_definition
class NotOp(UnaryElementwiseOp):
    """Bitwise or logical complement."""

    name = "stablehlo.not"


@irdl_op_definition
class PopulationCountOp(UnaryElementwiseOp):
    """Number of set bits."""

    name = "stablehlo.popcnt"


@irdl_op_definition
class RealOp(UnaryElementwiseOp):
    """Real part."""

    name = "stablehlo.real"


@irdl_op_definition
class ReducePrecisionOp(UnaryElementwiseOp):
    """Rounding to fewer exponent and mantissa bits."""

    name = "stablehlo.reduce_precision"

    exponent_bits = prop_def(IntegerAttr)
    mantissa_bits = prop_def(IntegerAttr)


@irdl_op_definition
class RoundOp(UnaryElementwiseOp):
    """Rounding to the nearest integral value, ties away from zero."""

    name = "stablehlo.round_nearest_afz"


@irdl_op_definition
class RoundNearestEvenOp(UnaryElementwiseOp):
    """Rounding to the nearest integral value, ties to even."""

    name = "stablehlo.round_nearest_even"


@irdl_op_definition
class RsqrtOp(TranscendentalOp):
    """Reciprocal square root."""

    name = "stablehlo.rsqrt"


@irdl_op_definition
class SignOp(UnaryElementwiseOp):
    """Sign."""

    name = "stablehlo.sign"


@irdl_op_definition
class SineOp(TranscendentalOp):
    """Sine."""

    name = "stablehlo.sine"


@irdl_op_definition
class SqrtOp(TranscendentalOp):
    """Square root."""

    name = "stablehlo.sqrt"


@irdl_op_definition
class TanOp(TranscendentalOp):
    """Tangent."""

    name = "stablehlo.tan"


@irdl_op_definition
class TanhOp(TranscendentalOp):
    """Hyperbolic tangent."""

    name = "stablehlo.tanh"


@irdl_op_definition
class UniformDequantizeOp(UnaryElementwiseOp):
    """Quantised values to floats."""

    name = "stablehlo.uniform_dequantize"


@irdl_op_definition
class UniformQuantizeOp(UnaryElementwiseOp):
    """Floats (or quantised values) to quantised values."""

    name = "stablehlo.uniform_quantize"


@irdl_op_definition
class AddOp(BinaryElementwiseOp):
    """Sum; logical or of booleans."""

    name = "stablehlo.add"

    traits = traits_def(Commutative())


@irdl_op_definition
class AndOp(BinaryElementwiseOp):
    """Bitwise or logical and."""

    name = "stablehlo.and"

    traits = traits_def(Commutative())


@irdl_op_definition
class Atan2Op(BinaryElementwiseOp):
    """Angle of the point (rhs, lhs)."""

    name = "stablehlo.atan2"


@irdl_op_definition
class ComplexOp(BinaryElementwiseOp):
    """Complex value from real and imaginary part."""

    name = "stablehlo.complex"


@irdl_op_definition
class DivOp(BinaryElementwiseOp):
    """Quotient."""

    name = "stablehlo.divide"


@irdl_op_definition
class MaxOp(BinaryElementwiseOp):
    """Larger value; logical or of booleans."""

    name = "stablehlo.maximum"

    traits = traits_def(Commutative())


@irdl_op_definition
class MinOp(BinaryElementwiseOp):
    """Smaller value; logical and of booleans."""

    name = "stablehlo.minimum"

    traits = traits_def(Commutative())


@irdl_op_definition
class MulOp(BinaryElementwiseOp):
    """Product; logical and of booleans."""

    name = "stablehlo.multiply"

    traits = traits_def(Commutative())


@irdl_op_definition
class OrOp(BinaryElementwiseOp):
    """Bitwise or logical or."""

    name = "stablehlo.or"

    traits = traits_def(Commutative())


@irdl_op_definition
class PowOp(BinaryElementwiseOp):
    """lhs to the rhs."""

    name = "stablehlo.power"


@irdl_op_definition
class RemOp(BinaryElementwiseOp):
    """Remainder of the division, with the sign of lhs."""

    name = "stablehlo.remainder"


@irdl_op_definition
class ShiftLeftOp(BinaryElementwiseOp):
    """Left shift."""

    name = "stablehlo.shift_left"


@irdl_op_definition
class ShiftRightArithmeticOp(BinaryElementwiseOp):
    """Right shift that keeps the sign."""

    name = "stablehlo.shift_right_arithmetic"


@irdl_op_definition
class ShiftRightLogicalOp(BinaryElementwiseOp):
    """Right shift that fills with zeros."""

    name = "stablehlo.shift_right_logical"


@irdl_op_definition
class SubtractOp(BinaryElementwiseOp):
    """Difference."""

    name = "stablehlo.subtract"


@irdl_op_definition
class XorOp(BinaryElementwiseOp):
    """Bitwise or logical exclusive or."""

    name = "stablehlo.xor"

    traits = traits_def(Commutative())


@irdl_op_definition
class CompareOp(StableHLOOp):
    """Comparison of two tensors into booleans."""

    name = "stablehlo.compare"

    lhs = operand_def(AnyTensor)
    rhs = operand_def(AnyTensor)
    comparison_direction = prop_def(ComparisonDirection)
    compare_type = opt_prop_def(ComparisonType)
    result = result_def(AnyTensor)

    traits = traits_def(Pure(), Elementwise())

    def __init__(
        self, lhs: SSAValue, rhs: SSAValue, direction: str, compare_type: str | None = None
    ):
        type = lhs.type
        assert isinstance(type, TensorType), f"compare needs tensors, not {type}"
        super().__init__(
            operands=[lhs, rhs],
            properties={
                "comparison_direction": ComparisonDirection(direction),
                "compare_type": None if compare_type is None else ComparisonType(compare_type),
            },
            result_types=[TensorType(i1, type.get_shape(), type.encoding)],
        )


@irdl_op_definition
class SelectOp(StableHLOOp):
    """on_true where pred holds, else on_false; pred is a scalar or has their shape."""

    name = "stablehlo.select"

    pred = operand_def(AnyTensor)
    on_true = operand_def(AnyTensor)
    on_false = operand_def(AnyTensor)
    result = result_def(AnyTensor)

    traits = traits_def(Pure(), Elementwise())

    def __init__(self, pred: SSAValue, on_true: SSAValue, on_false: SSAValue):
        super().__init__(operands=[pred, on_true, on_false], result_types=[on_true.type])


@irdl_op_definition
class ClampOp(StableHLOOp):
    """The operand, limited to [min, max]; the limits are scalars or have its shape."""

    name = "stablehlo.clamp"

    min = operand_def(AnyTensor)
    operand = operand_def(AnyTensor)
    max = operand_def(AnyTensor)
    result = result_def(AnyTensor)

    traits = traits_def(Pure(), Elementwise())

    def __init__(self, min: SSAValue, operand: SSAValue, max: SSAValue):
        super().__init__(operands=[min, operand, max], result_types=[operand.type])


def convert(value: SSAValue, element_type: Attribute) -> ConvertOp:
    """A conversion of a value to another element type."""
    type = value.type
    assert is_tensor(type), f"convert needs a tensor, not {type}"
    assert type.element_type != element_type, "nothing to convert"
    return ConvertOp(value, TensorType(element_type, type.get_shape(), type.encoding))


OPERATIONS = [
    AbsOp,
    CbrtOp,
    CeilOp,
    ConvertOp,
    CosineOp,
    ClzOp,
    ExpOp,
    Expm1Op,
    FloorOp,
    ImagOp,
    IsFiniteOp,
    LogOp,
    Log1pOp,
    LogisticOp,
    NegOp,
    NotOp,
    PopulationCountOp,
    RealOp,
    ReducePrecisionOp,
    RoundOp,
    RoundNearestEvenOp,
    RsqrtOp,
    SignOp,
    SineOp,
    SqrtOp,
    TanOp,
    TanhOp,
    UniformDequantizeOp,
    UniformQuantizeOp,
    AddOp,
    AndOp,
    Atan2Op,
    ComplexOp,
    DivOp,
    MaxOp,
    MinOp,
    MulOp,
    OrOp,
    PowOp,
    RemOp,
    ShiftLeftOp,
    ShiftRightArithmeticOp,
    ShiftRightLogicalOp,
    SubtractOp,
    XorOp,
    CompareOp,
    SelectOp,
    ClampOp,
]
