"""CHLO: the client-side operations that JAX leaves in its StableHLO (`x**2` is chlo.square)."""

from __future__ import annotations

from abc import ABC

from xdsl.dialects.builtin import ArrayAttr, IntegerAttr
from xdsl.ir import Attribute, Dialect
from xdsl.irdl import (
    AttrSizedOperandSegments,
    AttrSizedResultSegments,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import Pure, RecursiveMemoryEffect

from .stablehlo.base import AnyTensor, I64Array, StableHLOOp, UnaryElementwiseOp
from .structured import Dims, EnumAttribute, StructAttribute
from .traits import Elementwise


@irdl_attr_definition
class ComparisonDirection(EnumAttribute):
    """How two elements are compared: EQ, NE, GE, GT, LE, LT."""

    name = "chlo.comparison_direction"
    cases = ("EQ", "NE", "GE", "GT", "LE", "LT")


@irdl_attr_definition
class ComparisonType(EnumAttribute):
    """As what elements are compared: FLOAT, TOTALORDER, SIGNED, UNSIGNED."""

    name = "chlo.comparison_type"
    cases = ("NOTYPE", "FLOAT", "TOTALORDER", "SIGNED", "UNSIGNED")


@irdl_attr_definition
class Precision(EnumAttribute):
    """How precisely a ragged dot computes: DEFAULT, HIGH, HIGHEST."""

    name = "chlo.precision"
    cases = ("DEFAULT", "HIGH", "HIGHEST")


class RaggedDotDimensionNumbers(StructAttribute):
    """Dimensions of a dot whose groups have different sizes."""

    name = "chlo.ragged_dot"

    lhs_batching_dimensions: Dims = ()
    rhs_batching_dimensions: Dims = ()
    lhs_contracting_dimensions: Dims = ()
    rhs_contracting_dimensions: Dims = ()
    lhs_ragged_dimensions: Dims = ()
    rhs_group_dimensions: Dims = ()


@irdl_op_definition
class AcosOp(UnaryElementwiseOp):
    """Arc cosine."""

    name = "chlo.acos"


@irdl_op_definition
class AcoshOp(UnaryElementwiseOp):
    """Inverse hyperbolic cosine."""

    name = "chlo.acosh"


@irdl_op_definition
class AsinOp(UnaryElementwiseOp):
    """Arc sine."""

    name = "chlo.asin"


@irdl_op_definition
class AsinhOp(UnaryElementwiseOp):
    """Inverse hyperbolic sine."""

    name = "chlo.asinh"


@irdl_op_definition
class AtanOp(UnaryElementwiseOp):
    """Arc tangent."""

    name = "chlo.atan"


@irdl_op_definition
class AtanhOp(UnaryElementwiseOp):
    """Inverse hyperbolic tangent."""

    name = "chlo.atanh"


@irdl_op_definition
class BesselI1eOp(UnaryElementwiseOp):
    """Exponentially scaled modified Bessel function of order 1."""

    name = "chlo.bessel_i1e"


@irdl_op_definition
class ConjOp(UnaryElementwiseOp):
    """Complex conjugate."""

    name = "chlo.conj"


@irdl_op_definition
class CoshOp(UnaryElementwiseOp):
    """Hyperbolic cosine."""

    name = "chlo.cosh"


@irdl_op_definition
class DigammaOp(UnaryElementwiseOp):
    """Derivative of lgamma."""

    name = "chlo.digamma"


@irdl_op_definition
class ErfOp(UnaryElementwiseOp):
    """Error function."""

    name = "chlo.erf"


@irdl_op_definition
class ErfInvOp(UnaryElementwiseOp):
    """Inverse of the error function."""

    name = "chlo.erf_inv"


@irdl_op_definition
class ErfcOp(UnaryElementwiseOp):
    """One minus the error function."""

    name = "chlo.erfc"


@irdl_op_definition
class IsInfOp(UnaryElementwiseOp):
    """Whether a value is infinite."""

    name = "chlo.is_inf"


@irdl_op_definition
class IsNegInfOp(UnaryElementwiseOp):
    """Whether a value is minus infinity."""

    name = "chlo.is_neg_inf"


@irdl_op_definition
class IsPosInfOp(UnaryElementwiseOp):
    """Whether a value is plus infinity."""

    name = "chlo.is_pos_inf"


@irdl_op_definition
class LgammaOp(UnaryElementwiseOp):
    """Logarithm of the absolute gamma function."""

    name = "chlo.lgamma"


@irdl_op_definition
class SinhOp(UnaryElementwiseOp):
    """Hyperbolic sine."""

    name = "chlo.sinh"


@irdl_op_definition
class SquareOp(UnaryElementwiseOp):
    """Square."""

    name = "chlo.square"


@irdl_op_definition
class TanOp(UnaryElementwiseOp):
    """Tangent."""

    name = "chlo.tan"


@irdl_op_definition
class MulhiOp(StableHLOOp):
    """Upper half of a product."""

    name = "chlo.mulhi"

    lhs = operand_def(AnyTensor)
    rhs = operand_def(AnyTensor)
    result = result_def(AnyTensor)

    traits = traits_def(Pure(), Elementwise())


@irdl_op_definition
class NextAfterOp(StableHLOOp):
    """Next value after x towards y."""

    name = "chlo.next_after"

    x = operand_def(AnyTensor)
    y = operand_def(AnyTensor)
    result = result_def(AnyTensor)

    traits = traits_def(Pure(), Elementwise())


@irdl_op_definition
class PolygammaOp(StableHLOOp):
    """Polygamma function of order n."""

    name = "chlo.polygamma"

    n = operand_def(AnyTensor)
    x = operand_def(AnyTensor)
    result = result_def(AnyTensor)

    traits = traits_def(Pure(), Elementwise())


@irdl_op_definition
class ZetaOp(StableHLOOp):
    """Hurwitz zeta function."""

    name = "chlo.zeta"

    x = operand_def(AnyTensor)
    q = operand_def(AnyTensor)
    result = result_def(AnyTensor)

    traits = traits_def(Pure(), Elementwise())


@irdl_op_definition
class AsinAcosKernelOp(UnaryElementwiseOp):
    """The common part of asin and acos of complex values."""

    name = "chlo._asin_acos_kernel"


@irdl_op_definition
class ConstantOp(StableHLOOp):
    """A constant."""

    name = "chlo.constant"

    value = prop_def(Attribute)
    output = result_def()

    traits = traits_def(Pure())


@irdl_op_definition
class ConstantLikeOp(StableHLOOp):
    """A constant of the operand's shape."""

    name = "chlo.constant_like"

    operand = operand_def()
    value = prop_def(Attribute)
    result = result_def()

    traits = traits_def(Pure())


@irdl_op_definition
class TopKOp(StableHLOOp):
    """The k largest elements along the last dimension and where they were."""

    name = "chlo.top_k"

    operand = operand_def(AnyTensor)
    k = prop_def(IntegerAttr)
    is_stable = opt_prop_def(Attribute)
    """From jaxlib 0.11 on."""
    values = result_def(AnyTensor)
    indices = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class RaggedDotOp(StableHLOOp):
    """Product where groups of rows of lhs meet their own rhs."""

    name = "chlo.ragged_dot"

    lhs = operand_def(AnyTensor)
    rhs = operand_def(AnyTensor)
    group_sizes = operand_def(AnyTensor)
    ragged_dot_dimension_numbers = prop_def(RaggedDotDimensionNumbers)
    precision_config = opt_prop_def(ArrayAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class ScanOp(StableHLOOp):
    """Applies the region along a dimension, carrying values."""

    name = "chlo.scan"

    inputs = var_operand_def()
    inits = var_operand_def()
    dimension = prop_def(IntegerAttr)
    scan_dim_size = opt_prop_def(IntegerAttr)
    is_reverse = opt_prop_def(IntegerAttr)
    is_associative = opt_prop_def(IntegerAttr)
    body = region_def("single_block")
    outputs = var_result_def()
    carries = var_result_def()

    irdl_options = (
        AttrSizedOperandSegments(as_property=True),
        AttrSizedResultSegments(as_property=True),
    )
    traits = traits_def(RecursiveMemoryEffect())


# ---- broadcasting forms --------------------------------------------------------------------------


class BroadcastBinaryOp(StableHLOOp, ABC):
    """A binary operation that broadcasts its operands (JAX does not emit these)."""

    lhs = operand_def()
    rhs = operand_def()
    broadcast_dimensions = opt_prop_def(I64Array)
    result = result_def()

    traits = traits_def(Pure())


@irdl_op_definition
class BroadcastAddOp(BroadcastBinaryOp):
    """Elementwise sum; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_add"


@irdl_op_definition
class BroadcastAndOp(BroadcastBinaryOp):
    """Elementwise and; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_and"


@irdl_op_definition
class BroadcastAtan2Op(BroadcastBinaryOp):
    """Elementwise angle of (y, x); dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_atan2"


@irdl_op_definition
class BroadcastComplexOp(BroadcastBinaryOp):
    """Elementwise complex number of two parts; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_complex"


@irdl_op_definition
class BroadcastDivideOp(BroadcastBinaryOp):
    """Elementwise quotient; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_divide"


@irdl_op_definition
class BroadcastMaximumOp(BroadcastBinaryOp):
    """Elementwise maximum; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_maximum"


@irdl_op_definition
class BroadcastMinimumOp(BroadcastBinaryOp):
    """Elementwise minimum; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_minimum"


@irdl_op_definition
class BroadcastMultiplyOp(BroadcastBinaryOp):
    """Elementwise product; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_multiply"


@irdl_op_definition
class BroadcastNextAfterOp(BroadcastBinaryOp):
    """Elementwise next value towards the other; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_next_after"


@irdl_op_definition
class BroadcastOrOp(BroadcastBinaryOp):
    """Elementwise or; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_or"


@irdl_op_definition
class BroadcastPolygammaOp(BroadcastBinaryOp):
    """Elementwise polygamma function; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_polygamma"


@irdl_op_definition
class BroadcastPowerOp(BroadcastBinaryOp):
    """Elementwise power; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_power"


@irdl_op_definition
class BroadcastRemainderOp(BroadcastBinaryOp):
    """Elementwise remainder; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_remainder"


@irdl_op_definition
class BroadcastShiftLeftOp(BroadcastBinaryOp):
    """Elementwise left shift; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_shift_left"


@irdl_op_definition
class BroadcastShiftRightArithmeticOp(BroadcastBinaryOp):
    """Elementwise right shift that keeps the sign; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_shift_right_arithmetic"


@irdl_op_definition
class BroadcastShiftRightLogicalOp(BroadcastBinaryOp):
    """Elementwise right shift that fills with zeros; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_shift_right_logical"


@irdl_op_definition
class BroadcastSubtractOp(BroadcastBinaryOp):
    """Elementwise difference; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_subtract"


@irdl_op_definition
class BroadcastXorOp(BroadcastBinaryOp):
    """Elementwise exclusive or; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_xor"


@irdl_op_definition
class BroadcastZetaOp(BroadcastBinaryOp):
    """Elementwise Hurwitz zeta function; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_zeta"


@irdl_op_definition
class BroadcastCompareOp(BroadcastBinaryOp):
    """Elementwise comparison; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_compare"

    comparison_direction = prop_def(ComparisonDirection)
    compare_type = opt_prop_def(ComparisonType)


@irdl_op_definition
class BroadcastSelectOp(StableHLOOp):
    """Elementwise choice by a predicate; dimensions of size 1 are broadcast."""

    name = "chlo.broadcast_select"

    pred = operand_def()
    on_true = operand_def()
    on_false = operand_def()
    result = result_def()

    traits = traits_def(Pure())


Chlo = Dialect(
    "chlo",
    [
        AcosOp,
        AcoshOp,
        AsinOp,
        AsinhOp,
        AtanOp,
        AtanhOp,
        BesselI1eOp,
        ConjOp,
        CoshOp,
        DigammaOp,
        ErfOp,
        ErfInvOp,
        ErfcOp,
        IsInfOp,
        IsNegInfOp,
        IsPosInfOp,
        LgammaOp,
        SinhOp,
        SquareOp,
        TanOp,
        MulhiOp,
        NextAfterOp,
        PolygammaOp,
        ZetaOp,
        AsinAcosKernelOp,
        ConstantOp,
        ConstantLikeOp,
        TopKOp,
        RaggedDotOp,
        ScanOp,
        BroadcastAddOp,
        BroadcastAndOp,
        BroadcastAtan2Op,
        BroadcastComplexOp,
        BroadcastDivideOp,
        BroadcastMaximumOp,
        BroadcastMinimumOp,
        BroadcastMultiplyOp,
        BroadcastNextAfterOp,
        BroadcastOrOp,
        BroadcastPolygammaOp,
        BroadcastPowerOp,
        BroadcastRemainderOp,
        BroadcastShiftLeftOp,
        BroadcastShiftRightArithmeticOp,
        BroadcastShiftRightLogicalOp,
        BroadcastSubtractOp,
        BroadcastXorOp,
        BroadcastZetaOp,
        BroadcastCompareOp,
        BroadcastSelectOp,
    ],
    [ComparisonDirection, ComparisonType, Precision, RaggedDotDimensionNumbers],
)
