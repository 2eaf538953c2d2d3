"""Floating point operations of contractions."""

from __future__ import annotations

from math import prod

from xdsl.dialects.builtin import IntegerAttr, ModuleOp
from xdsl.ir import Operation

from autopar.dialects.stablehlo.attributes import ConvDimensionNumbers, DotDimensionNumbers
from autopar.dialects.tensors import shape_of
from autopar.passes.walk import inner_ops

from .loops import times


def flops_of(module: ModuleOp) -> int:
    """FLOPs of the dots and convolutions of a module (two for a multiply and add), loops counted
    by their trips. After shard-partition these are those of one device."""
    loops: dict[Operation, int] = {}
    return sum(op_flops(op) * times(op, loops) for op in inner_ops(module) if op.name in _FLOPS)


def op_flops(op: Operation) -> int:
    """FLOPs of one run of an op; 0 for all but dots and convolutions."""
    formula = _FLOPS.get(op.name)
    return 0 if formula is None else formula(op)


def _dot(op: Operation) -> int:
    numbers = op.properties["dot_dimension_numbers"]
    assert isinstance(numbers, DotDimensionNumbers)
    lhs = shape_of(op.operands[0].type)
    contracted = prod(lhs[d] for d in numbers.lhs_contracting_dimensions)
    return 2 * prod(shape_of(op.results[0].type)) * contracted


def output_features(op: Operation) -> int | None:
    """The output features of one group of a convolution; None: another op."""
    if op.name != "stablehlo.convolution":
        return None
    features = shape_of(op.operands[1].type)[_numbers(op).kernel_output_feature_dimension]
    return features // (_groups(op, "feature_group_count") * _groups(op, "batch_group_count"))


def _groups(op: Operation, name: str) -> int:
    groups = op.properties[name]
    assert isinstance(groups, IntegerAttr)
    return groups.value.data


def _numbers(op: Operation) -> ConvDimensionNumbers:
    numbers = op.properties["dimension_numbers"]
    assert isinstance(numbers, ConvDimensionNumbers)
    return numbers


def _convolution(op: Operation) -> int:
    numbers = _numbers(op)
    kernel = shape_of(op.operands[1].type)
    window = prod(kernel[d] for d in numbers.kernel_spatial_dimensions)
    features = kernel[numbers.kernel_input_feature_dimension]
    return 2 * prod(shape_of(op.results[0].type)) * window * features


_FLOPS = {"stablehlo.dot_general": _dot, "stablehlo.convolution": _convolution}
