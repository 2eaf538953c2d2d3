"""Rule of convolutions, gradients included (dilations, batch groups, feature groups).

An input spatial dimension is shared by the windows (the output dimension) and by the offsets in
a window (the kernel dimension). The larger of the two is the major factor, as in Shardy: it
decides where a sharding of the input spreads. Sharded windows need their neighbours' rows
(PERMUTATION); sharded offsets are no plain reduction, since every part of the kernel meets rows of
every part of the input (NEED_REPLICATION).

Partitioning takes them for one all the same where the kernel is larger than the result, as in the
gradient of the weights, whose kernel is the gradient of the output: each device fetches the rows
that its part of the kernel meets, which for few windows are few beyond its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from xdsl.ir import Operation

from .access import attribute, integer, operand_shapes, result_shapes
from .core import FactorKind, RuleBuilder, ShardingRule
from .registry import sharding_rule

if TYPE_CHECKING:
    from ..stablehlo.attributes import ConvDimensionNumbers


@sharding_rule("stablehlo.convolution")
def convolution(op: Operation) -> ShardingRule:
    numbers = cast("ConvDimensionNumbers", attribute(op, "dimension_numbers"))
    batch_groups = integer(op, "batch_group_count", 1)
    feature_groups = integer(op, "feature_group_count", 1)
    (left, kernel), (out,) = operand_shapes(op), result_shapes(op)
    builder = RuleBuilder([left, kernel], [out])
    out_feature = numbers.output_feature_dimension
    if batch_groups > 1:
        builder.factor(
            [numbers.input_batch_dimension, numbers.kernel_output_feature_dimension],
            [out_feature],
            batch_groups,
        )
    out_batch = numbers.output_batch_dimension
    builder.factor([numbers.input_batch_dimension, None], [out_batch], out[out_batch])
    for left_dim, kernel_dim, out_dim in zip(
        numbers.input_spatial_dimensions,
        numbers.kernel_spatial_dimensions,
        numbers.output_spatial_dimensions,
        strict=True,
    ):
        windows, offsets = out[out_dim], kernel[kernel_dim]
        remaining = left[left_dim]
        for is_window in (True, False) if windows >= offsets else (False, True):
            size = min(remaining, windows if is_window else offsets)
            if size <= 1:
                continue
            if is_window:
                builder.factor([left_dim, None], [out_dim], size, FactorKind.PERMUTATION)
            else:
                builder.factor([left_dim, kernel_dim], [None], size, FactorKind.NEED_REPLICATION)
            remaining //= size
    if feature_groups > 1:
        builder.factor(
            [numbers.input_feature_dimension, numbers.kernel_output_feature_dimension],
            [out_feature],
            feature_groups,
        )
    kernel_in = numbers.kernel_input_feature_dimension
    builder.reduction([numbers.input_feature_dimension, kernel_in], kernel[kernel_in])
    builder.factor(
        [None, numbers.kernel_output_feature_dimension],
        [out_feature],
        out[out_feature] // (batch_groups * feature_groups),
    )
    rule = builder.build(linear=((0,), (1,)))
    return replace(rule, partitioned=_partitioned(rule, numbers.input_spatial_dimensions))


def _partitioned(rule: ShardingRule, spatial: Iterable[int]) -> ShardingRule:
    """The major factor alone splits a spatial dimension, evenly or not; of offsets it is a sum."""
    kinds, reducers, left = list(rule.kinds), list(rule.reducers), list(rule.operands[0])
    for dim in spatial:
        major = left[dim][0]
        left[dim] = (major,)
        if any(major in held for held in rule.operands[1]):
            kinds[major], reducers[major] = FactorKind.REDUCTION, "sum"
    operands = (tuple(left), rule.operands[1])
    return replace(rule, operands=operands, kinds=tuple(kinds), reducers=tuple(reducers))
