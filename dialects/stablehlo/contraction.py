"""Products, convolutions, normalisations and linear algebra."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    ArrayAttr,
    DenseArrayBase,
    FloatAttr,
    IntegerAttr,
    StringAttr,
)
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import operand_def, opt_prop_def, prop_def, result_def, traits_def
from xdsl.traits import Pure

from .attributes import ConvDimensionNumbers, DotAlgorithm, DotDimensionNumbers, FftType, Transpose
from .base import (
    AnyTensor,
    BoolArray,
    I64Array,
    StableHLOOp,
    check,
    check_dims,
    compatible_shapes,
    irdl_op_definition,
    shape_of,
)


@irdl_op_definition
class DotGeneralOp(StableHLOOp):
    """Product of two tensors over contracted dimensions, batched over others.

    The result has the batching dimensions, then the free ones of lhs, then those of rhs.
    """

    name = "stablehlo.dot_general"

    lhs = operand_def(AnyTensor)
    rhs = operand_def(AnyTensor)
    dot_dimension_numbers = prop_def(DotDimensionNumbers)
    precision_config = opt_prop_def(ArrayAttr)
    algorithm = opt_prop_def(DotAlgorithm)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def __init__(
        self,
        lhs: SSAValue,
        rhs: SSAValue,
        dimension_numbers: DotDimensionNumbers,
        result_type: Attribute,
        precision_config: Attribute | None = None,
    ):
        super().__init__(
            operands=[lhs, rhs],
            properties={
                "dot_dimension_numbers": dimension_numbers,
                "precision_config": precision_config,
            },
            result_types=[result_type],
        )

    def expected_shape(self) -> list[int]:
        """The result's shape by the dimension numbers."""
        lhs, rhs = shape_of(self.lhs.type), shape_of(self.rhs.type)
        n = self.dot_dimension_numbers
        used_lhs = n.lhs_batching_dimensions + n.lhs_contracting_dimensions
        used_rhs = n.rhs_batching_dimensions + n.rhs_contracting_dimensions
        return [
            *(lhs[dim] for dim in n.lhs_batching_dimensions),
            *(size for dim, size in enumerate(lhs) if dim not in used_lhs),
            *(size for dim, size in enumerate(rhs) if dim not in used_rhs),
        ]

    def verify_(self) -> None:
        lhs, rhs = shape_of(self.lhs.type), shape_of(self.rhs.type)
        n = self.dot_dimension_numbers
        pairs = [
            ("batching", n.lhs_batching_dimensions, n.rhs_batching_dimensions),
            ("contracting", n.lhs_contracting_dimensions, n.rhs_contracting_dimensions),
        ]
        check_dims(self, "lhs dimensions", pairs[0][1] + pairs[1][1], len(lhs))
        check_dims(self, "rhs dimensions", pairs[0][2] + pairs[1][2], len(rhs))
        for what, left, right in pairs:
            check(
                len(left) == len(right),
                self,
                f"has {len(left)} {what} dimensions of lhs and {len(right)} of rhs",
            )
            for a, b in zip(left, right, strict=True):
                check(
                    lhs[a] == rhs[b] or DYNAMIC_INDEX in (lhs[a], rhs[b]),
                    self,
                    f"has a {what} dimension of size {lhs[a]} in lhs (dimension {a} of "
                    f"{self.lhs.type}) and {rhs[b]} in rhs (dimension {b} of {self.rhs.type})",
                )
        check(
            compatible_shapes(self.expected_shape(), shape_of(self.result.type)),
            self,
            f"gives shape {self.expected_shape()}, but the result is {self.result.type}",
        )


@irdl_op_definition
class DotOp(StableHLOOp):
    """Product of vectors and matrices (deprecated form of dot_general)."""

    name = "stablehlo.dot"

    lhs = operand_def(AnyTensor)
    rhs = operand_def(AnyTensor)
    precision_config = opt_prop_def(ArrayAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class EinsumOp(StableHLOOp):
    """Product by an einsum expression (deprecated)."""

    name = "stablehlo.einsum"

    lhs = operand_def(AnyTensor)
    rhs = operand_def(AnyTensor)
    einsum_config = prop_def(StringAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class UnaryEinsumOp(StableHLOOp):
    """Sums and transposes by an einsum expression (deprecated)."""

    name = "stablehlo.unary_einsum"

    operand = operand_def(AnyTensor)
    einsum_config = prop_def(StringAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class ConvolutionOp(StableHLOOp):
    """Convolution with strides, padding, dilations and groups."""

    name = "stablehlo.convolution"

    lhs = operand_def(AnyTensor)
    rhs = operand_def(AnyTensor)
    window_strides = opt_prop_def(I64Array)
    padding = opt_prop_def(Attribute)
    lhs_dilation = opt_prop_def(I64Array)
    rhs_dilation = opt_prop_def(I64Array)
    window_reversal = opt_prop_def(BoolArray)
    dimension_numbers = prop_def(ConvDimensionNumbers)
    feature_group_count = prop_def(IntegerAttr)
    batch_group_count = prop_def(IntegerAttr)
    precision_config = opt_prop_def(ArrayAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def verify_(self) -> None:
        n = self.dimension_numbers
        sides = [
            (
                "input",
                self.lhs,
                n.input_spatial_dimensions,
                (n.input_batch_dimension, n.input_feature_dimension),
            ),
            (
                "kernel",
                self.rhs,
                n.kernel_spatial_dimensions,
                (n.kernel_input_feature_dimension, n.kernel_output_feature_dimension),
            ),
            (
                "output",
                self.result,
                n.output_spatial_dimensions,
                (n.output_batch_dimension, n.output_feature_dimension),
            ),
        ]
        for what, value, spatial, others in sides:
            rank = len(shape_of(value.type))
            check_dims(self, f"{what} dimensions", spatial + others, rank)
            check(
                len(spatial) + 2 == rank,
                self,
                f"names {len(spatial) + 2} dimensions of the {what}, which is {value.type}",
            )
        rank = len(n.input_spatial_dimensions)
        for name in ("window_strides", "lhs_dilation", "rhs_dilation", "window_reversal"):
            value = self.properties.get(name)
            if isinstance(value, DenseArrayBase):
                found = len(value.get_values())
                check(
                    found == rank,
                    self,
                    f"has {found} {name} for {rank} spatial dimensions",
                )


@irdl_op_definition
class DynamicConvOp(StableHLOOp):
    """convolution whose padding is an operand."""

    name = "stablehlo.dynamic_conv"

    lhs = operand_def(AnyTensor)
    rhs = operand_def(AnyTensor)
    padding = operand_def(AnyTensor)
    window_strides = opt_prop_def(I64Array)
    lhs_dilation = opt_prop_def(I64Array)
    rhs_dilation = opt_prop_def(I64Array)
    window_reversal = opt_prop_def(BoolArray)
    dimension_numbers = prop_def(ConvDimensionNumbers)
    feature_group_count = prop_def(IntegerAttr)
    batch_group_count = prop_def(IntegerAttr)
    precision_config = opt_prop_def(ArrayAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class BatchNormTrainingOp(StableHLOOp):
    """Batch normalisation that computes mean and variance."""

    name = "stablehlo.batch_norm_training"

    operand = operand_def(AnyTensor)
    scale = operand_def(AnyTensor)
    offset = operand_def(AnyTensor)
    epsilon = prop_def(FloatAttr)
    feature_index = prop_def(IntegerAttr)
    output = result_def(AnyTensor)
    batch_mean = result_def(AnyTensor)
    batch_var = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class BatchNormInferenceOp(StableHLOOp):
    """Batch normalisation with given mean and variance."""

    name = "stablehlo.batch_norm_inference"

    operand = operand_def(AnyTensor)
    scale = operand_def(AnyTensor)
    offset = operand_def(AnyTensor)
    mean = operand_def(AnyTensor)
    variance = operand_def(AnyTensor)
    epsilon = prop_def(FloatAttr)
    feature_index = prop_def(IntegerAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class BatchNormGradOp(StableHLOOp):
    """Gradients of batch_norm_training."""

    name = "stablehlo.batch_norm_grad"

    operand = operand_def(AnyTensor)
    scale = operand_def(AnyTensor)
    mean = operand_def(AnyTensor)
    variance = operand_def(AnyTensor)
    grad_output = operand_def(AnyTensor)
    epsilon = prop_def(FloatAttr)
    feature_index = prop_def(IntegerAttr)
    grad_operand = result_def(AnyTensor)
    grad_scale = result_def(AnyTensor)
    grad_offset = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class CholeskyOp(StableHLOOp):
    """Cholesky factors of batched matrices."""

    name = "stablehlo.cholesky"

    a = operand_def(AnyTensor)
    lower = opt_prop_def(IntegerAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class TriangularSolveOp(StableHLOOp):
    """Solutions of batched triangular systems."""

    name = "stablehlo.triangular_solve"

    a = operand_def(AnyTensor)
    b = operand_def(AnyTensor)
    left_side = prop_def(IntegerAttr)
    lower = prop_def(IntegerAttr)
    unit_diagonal = prop_def(IntegerAttr)
    transpose_a = prop_def(Transpose)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class FftOp(StableHLOOp):
    """Fourier transform over the last dimensions."""

    name = "stablehlo.fft"

    operand = operand_def(AnyTensor)
    fft_type = prop_def(FftType)
    fft_length = prop_def(I64Array)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


def dot_general(
    lhs: SSAValue,
    rhs: SSAValue,
    contracting: tuple[Sequence[int], Sequence[int]],
    result_type: Attribute,
    batching: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> DotGeneralOp:
    """A dot_general from plain dimension lists."""
    numbers = DotDimensionNumbers(
        lhs_batching_dimensions=tuple(batching[0]),
        rhs_batching_dimensions=tuple(batching[1]),
        lhs_contracting_dimensions=tuple(contracting[0]),
        rhs_contracting_dimensions=tuple(contracting[1]),
    )
    return DotGeneralOp(lhs, rhs, numbers, result_type)


OPERATIONS = [
    DotGeneralOp,
    DotOp,
    EinsumOp,
    UnaryEinsumOp,
    ConvolutionOp,
    DynamicConvOp,
    BatchNormTrainingOp,
    BatchNormInferenceOp,
    BatchNormGradOp,
    CholeskyOp,
    TriangularSolveOp,
    FftOp,
]
