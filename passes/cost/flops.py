"""Floating point operations of contractions, and of ops whose rule states theirs.

Of a convolution only what meets an element counts, neither padding nor the holes of dilation, as in
XLA's `HloCostAnalysis`: kernels leave those out.
"""

from __future__ import annotations

from functools import cache
from math import gcd, prod

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from autopar.dialects.rules.access import integer, ints
from autopar.dialects.rules.registry import stated_flops
from autopar.dialects.stablehlo.attributes import ConvDimensionNumbers, DotDimensionNumbers
from autopar.dialects.tensors import element_type, shape_of
from autopar.passes.walk import inner_ops

from .loops import times


def flops_of(module: ModuleOp) -> int:
    """FLOPs of a module (two for a multiply and add), loops counted by their trips. After
    shard-partition these are those of one device."""
    loops: dict[Operation, int] = {}
    found = ((op, op_flops(op)) for op in inner_ops(module))
    return sum(flops * times(op, loops) for op, flops in found if flops)


def op_flops(op: Operation) -> int:
    """FLOPs of one run of an op: what third parties state (`register_sharding_rule`), those of dots
    and convolutions; 0 for all others."""
    stated, formula = stated_flops(op), _FLOPS.get(op.name)
    return formula(op) if formula is not None and not stated else stated


def compute_type(op: Operation) -> str:
    """The element type that an op computes in: that of its first operand."""
    value = (*op.operands, *op.results)[0]
    return str(element_type(value.type))


def dot_numbers(dot: Operation) -> DotDimensionNumbers:
    """Which dimensions a dot contracts, and which are of its batch."""
    numbers = dot.properties["dot_dimension_numbers"]
    assert isinstance(numbers, DotDimensionNumbers)
    return numbers


def _dot(op: Operation) -> int:
    numbers = dot_numbers(op)
    lhs = shape_of(op.operands[0].type)
    contracted = prod(lhs[d] for d in numbers.lhs_contracting_dimensions)
    return 2 * prod(shape_of(op.results[0].type)) * contracted


def output_features(op: Operation) -> int | None:
    """The output features of one group of a convolution; None: another op."""
    if op.name != "stablehlo.convolution":
        return None
    features = shape_of(op.operands[1].type)[_numbers(op).kernel_output_feature_dimension]
    return features // (integer(op, "feature_group_count", 1) * integer(op, "batch_group_count", 1))


def _numbers(op: Operation) -> ConvDimensionNumbers:
    numbers = op.properties["dimension_numbers"]
    assert isinstance(numbers, ConvDimensionNumbers)
    return numbers


def convolution_holes(op: Operation) -> list[tuple[int, int, int]]:
    """Of each spatial dimension of a convolution whose elements are set apart (`lhs_dilation`): the
    dimension of the result, that of the kernel, and how far apart."""
    numbers = _numbers(op)
    apart = ints(op, "lhs_dilation", (1,) * len(numbers.input_spatial_dimensions))
    dims = zip(
        numbers.output_spatial_dimensions, numbers.kernel_spatial_dimensions, apart, strict=True
    )
    return [(out, kernel, n) for out, kernel, n in dims if n > 1]


def _convolution(op: Operation) -> int:
    numbers = _numbers(op)
    inputs, kernel, out = (shape_of(value.type) for value in (*op.operands[:2], op.results[0]))
    rank = len(numbers.input_spatial_dimensions)
    strides = ints(op, "window_strides", (1,) * rank)
    pads = ints(op, "padding", (0,) * 2 * rank)
    apart = ints(op, "lhs_dilation", (1,) * rank)
    between = ints(op, "rhs_dilation", (1,) * rank)
    met = 1
    for i in range(rank):
        met *= window_meetings(
            inputs[numbers.input_spatial_dimensions[i]],
            kernel[numbers.kernel_spatial_dimensions[i]],
            out[numbers.output_spatial_dimensions[i]],
            strides[i],
            pads[2 * i],
            apart[i],
            between[i],
        )
    features = kernel[numbers.kernel_input_feature_dimension]
    batch = out[numbers.output_batch_dimension] * out[numbers.output_feature_dimension]
    return 2 * met * batch * features


@cache
def window_meetings(
    size: int, taps: int, windows: int, stride: int, low: int, apart: int, between: int
) -> int:
    """The pairs (window, tap) of one dimension at which there is an element.

    `size` elements, `apart` of each other behind `low` of padding; windows of `taps`, `between` of
    each other, every `stride`.
    """
    starts = np.arange(windows) * stride - low
    # the taps of a window that are inside, and of these every `every`th from some `first` on
    least = np.clip(-(starts // between), 0, taps)
    end = np.clip(((size - 1) * apart - starts) // between + 1, least, taps)
    common = gcd(between, apart)
    every = apart // common
    first = -starts // common * pow(between // common, -1, every) % every
    met = (end - 1 - first) // every - (least - 1 - first) // every
    return int(met[starts % common == 0].sum())


_FLOPS = {"stablehlo.dot_general": _dot, "stablehlo.convolution": _convolution}
