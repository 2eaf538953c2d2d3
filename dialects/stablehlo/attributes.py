"""Attributes and types of StableHLO, in upstream's textual forms.

What has no class here (quantised types, `#stablehlo.mesh` …) is kept verbatim by the context.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from xdsl.dialects.builtin import ArrayAttr
from xdsl.ir import Attribute, Data, ParametrizedAttribute, TypeAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from ..structured import Dims, EnumAttribute, StructAttribute

# ---- types ---------------------------------------------------------------------------------------


@irdl_attr_definition
class TokenType(ParametrizedAttribute, TypeAttribute):
    """Orders side effects."""

    name = "stablehlo.token"


@irdl_attr_definition
class FutureType(ParametrizedAttribute, TypeAttribute):
    """The results of an asynchronous operation that may still run."""

    name = "stablehlo.future"

    types: ArrayAttr[Attribute]

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        types = parser.parse_comma_separated_list(parser.Delimiter.ANGLE, parser.parse_type)
        return [ArrayAttr(types)]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_list(self.types, printer.print_attribute)


# ---- dimension numbers ---------------------------------------------------------------------------


class DotDimensionNumbers(StructAttribute):
    """Which dimensions of a dot_general are batched and which are contracted."""

    name = "stablehlo.dot"

    lhs_batching_dimensions: Dims = ()
    rhs_batching_dimensions: Dims = ()
    lhs_contracting_dimensions: Dims = ()
    rhs_contracting_dimensions: Dims = ()


class GatherDimensionNumbers(StructAttribute):
    """How a gather's indices and slices map to the operand and the result."""

    name = "stablehlo.gather"

    offset_dims: Dims = ()
    collapsed_slice_dims: Dims = ()
    operand_batching_dims: Dims = ()
    start_indices_batching_dims: Dims = ()
    start_index_map: Dims = ()
    index_vector_dim: int = 0


class ScatterDimensionNumbers(StructAttribute):
    """How a scatter's indices and updates map to the inputs."""

    name = "stablehlo.scatter"

    update_window_dims: Dims = ()
    inserted_window_dims: Dims = ()
    input_batching_dims: Dims = ()
    scatter_indices_batching_dims: Dims = ()
    scatter_dims_to_operand_dims: Dims = ()
    index_vector_dim: int = 0


class ConvDimensionNumbers(StructAttribute):
    """The meaning of each dimension of a convolution: `#stablehlo.conv<[b, 0, f]x[0, i, o]->…>`."""

    name = "stablehlo.conv"

    input_batch_dimension: int
    input_feature_dimension: int
    input_spatial_dimensions: Dims
    kernel_input_feature_dimension: int
    kernel_output_feature_dimension: int
    kernel_spatial_dimensions: Dims
    output_batch_dimension: int
    output_feature_dimension: int
    output_spatial_dimensions: Dims

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Any]:
        parser.parse_punctuation("<")
        if parser.parse_optional_keyword("raw"):
            values: dict[str, object] = {}

            def read_field() -> None:
                field = parser.parse_identifier()
                parser.parse_punctuation("=")
                values[field] = (
                    tuple(
                        parser.parse_comma_separated_list(
                            parser.Delimiter.SQUARE, parser.parse_integer
                        )
                    )
                    if field.endswith("s")
                    else parser.parse_integer()
                )

            parser.parse_comma_separated_list(parser.Delimiter.NONE, read_field)
            parser.parse_punctuation(">")
            names = [field.name for field in dataclasses.fields(cls)]
            if set(values) != set(names):
                parser.raise_error(f"#stablehlo.conv<raw …> needs exactly {', '.join(names)}")
            return [values[name] for name in names]

        def read_side(batch: str, feature: str) -> tuple[int, int, Dims]:
            start = parser.pos
            items = parser.parse_comma_separated_list(
                parser.Delimiter.SQUARE,
                lambda: (
                    number
                    if (number := parser.parse_optional_integer(allow_boolean=False)) is not None
                    else parser.parse_identifier()
                ),
            )
            spatial = {item: dim for dim, item in enumerate(items) if isinstance(item, int)}
            if sorted(map(str, items)) != sorted(
                [batch, feature, *map(str, range(len(items) - 2))]
            ):
                parser.raise_error(
                    f"expected '{batch}', '{feature}' and 0 to {len(items) - 3} once each "
                    f"in #stablehlo.conv, found {items}",
                    start,
                    parser.pos,
                )
            return (
                items.index(batch),
                items.index(feature),
                tuple(spatial[i] for i in range(len(spatial))),
            )

        lhs = read_side("b", "f")
        parser.parse_keyword("x")
        rhs = read_side("i", "o")
        parser.parse_punctuation("->")
        out = read_side("b", "f")
        parser.parse_punctuation(">")
        return [*lhs, *rhs, *out]

    def print_parameters(self, printer: Printer) -> None:
        def side(first: str, at: int, second: str, at_second: int, spatial: Dims) -> str:
            names = {at: first, at_second: second} | {d: str(i) for i, d in enumerate(spatial)}
            return "[" + ", ".join(names[i] for i in sorted(names)) + "]"

        lhs = side(
            "b",
            self.input_batch_dimension,
            "f",
            self.input_feature_dimension,
            self.input_spatial_dimensions,
        )
        rhs = side(
            "i",
            self.kernel_input_feature_dimension,
            "o",
            self.kernel_output_feature_dimension,
            self.kernel_spatial_dimensions,
        )
        out = side(
            "b",
            self.output_batch_dimension,
            "f",
            self.output_feature_dimension,
            self.output_spatial_dimensions,
        )
        printer.print_string(f"<{lhs}x{rhs}->{out}>")


# ---- other structures ----------------------------------------------------------------------------


class ChannelHandle(StructAttribute):
    """The channel of a communication; type 1 is device to device."""

    name = "stablehlo.channel_handle"
    print_all = True

    handle: int
    type: int


class OutputOperandAlias(StructAttribute):
    """A custom_call's promise that an output shares the buffer of an operand."""

    name = "stablehlo.output_operand_alias"
    print_all = True

    output_tuple_indices: Dims
    operand_index: int
    operand_tuple_indices: Dims


class DotAlgorithm(StructAttribute):
    """The precisions that a dot must compute with."""

    name = "stablehlo.dot_algorithm"
    print_all = True

    lhs_precision_type: Attribute
    rhs_precision_type: Attribute
    accumulation_type: Attribute
    lhs_component_count: int
    rhs_component_count: int
    num_primitive_operations: int
    allow_imprecise_accumulation: bool


@irdl_attr_definition
class TypeExtensions(Data[tuple[int | None, ...]]):
    """The encoding of a tensor type with bounded dynamic dimensions; None: no bound."""

    name = "stablehlo.bounds"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[int | None, ...]:
        return tuple(
            parser.parse_comma_separated_list(
                parser.Delimiter.ANGLE,
                lambda: None if parser.parse_optional_punctuation("?") else parser.parse_integer(),
            )
        )

    def print_parameter(self, printer: Printer) -> None:
        text = ", ".join("?" if bound is None else str(bound) for bound in self.data)
        printer.print_string(f"<{text}>")


@irdl_attr_definition
class ResultAccuracyMode(Data[str]):
    """How a result accuracy is stated."""

    name = "stablehlo.result_accuracy_mode"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> str:
        with parser.in_angle_brackets():
            return parser.parse_identifier(" as a result accuracy mode")

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"<{self.data}>")

    def verify(self) -> None:
        if self.data not in ("DEFAULT", "HIGHEST", "TOLERANCE"):
            raise VerifyException(f"'{self.data}' is none of DEFAULT, HIGHEST, TOLERANCE")


class ResultAccuracy(StructAttribute):
    """The accuracy that a transcendental function must keep."""

    name = "stablehlo.result_accuracy"

    atol: float = 0.0
    rtol: float = 0.0
    ulps: int = 0
    mode: Attribute = ResultAccuracyMode("DEFAULT")


# ---- enums ---------------------------------------------------------------------------------------


@irdl_attr_definition
class ComparisonDirection(EnumAttribute):
    """How two elements are compared: EQ, NE, GE, GT, LE, LT."""

    name = "stablehlo.comparison_direction"
    cases = ("EQ", "NE", "GE", "GT", "LE", "LT")


@irdl_attr_definition
class ComparisonType(EnumAttribute):
    """As what elements are compared: FLOAT, TOTALORDER, SIGNED, UNSIGNED."""

    name = "stablehlo.comparison_type"
    cases = ("NOTYPE", "FLOAT", "TOTALORDER", "SIGNED", "UNSIGNED")


@irdl_attr_definition
class Precision(EnumAttribute):
    """How precisely a dot or convolution computes: DEFAULT, HIGH, HIGHEST."""

    name = "stablehlo.precision"
    cases = ("DEFAULT", "HIGH", "HIGHEST")


@irdl_attr_definition
class FftType(EnumAttribute):
    """The kind of a Fourier transform: FFT, IFFT, RFFT, IRFFT."""

    name = "stablehlo.fft_type"
    cases = ("FFT", "IFFT", "RFFT", "IRFFT")


@irdl_attr_definition
class Transpose(EnumAttribute):
    """How triangular_solve takes its matrix: NO_TRANSPOSE, TRANSPOSE, ADJOINT."""

    name = "stablehlo.transpose"
    cases = ("TRANSPOSE_INVALID", "NO_TRANSPOSE", "TRANSPOSE", "ADJOINT")


@irdl_attr_definition
class RngDistribution(EnumAttribute):
    """The distribution of rng: UNIFORM, NORMAL."""

    name = "stablehlo.rng_distribution"
    cases = ("UNIFORM", "NORMAL")


@irdl_attr_definition
class RngAlgorithm(EnumAttribute):
    """The generator of rng_bit_generator: DEFAULT, THREE_FRY, PHILOX."""

    name = "stablehlo.rng_algorithm"
    cases = ("DEFAULT", "THREE_FRY", "PHILOX")


ATTRIBUTES = [
    TokenType,
    FutureType,
    DotDimensionNumbers,
    GatherDimensionNumbers,
    ScatterDimensionNumbers,
    ConvDimensionNumbers,
    ChannelHandle,
    OutputOperandAlias,
    DotAlgorithm,
    TypeExtensions,
    ResultAccuracyMode,
    ResultAccuracy,
    ComparisonDirection,
    ComparisonType,
    Precision,
    FftType,
    Transpose,
    RngDistribution,
    RngAlgorithm,
]
