"""Rules of ops that rearrange, resize or make tensors."""

from __future__ import annotations

from math import gcd, prod

from xdsl.ir import Operation

from .access import integer, ints, operand_shapes, result_shapes
from .core import FactorKind, RuleBuilder, ShardingRule
from .registry import sharding_rule

PASS = FactorKind.PASS_THROUGH


@sharding_rule("stablehlo.transpose", op_class="pass_through")
def transpose(op: Operation) -> ShardingRule:
    (shape,), results = operand_shapes(op), result_shapes(op)
    builder = RuleBuilder([shape], results)
    for out, dim in enumerate(ints(op, "permutation")):
        builder.factor([dim], [out], shape[dim])
    return builder.build(linear=((0,),), moves_data=True)


@sharding_rule(
    "stablehlo.reshape", "tensor.collapse_shape", "tensor.expand_shape", op_class="pass_through"
)
def reshape(op: Operation) -> ShardingRule | None:
    """Splits both shapes, from the major dimension on, into factors as common as possible.

    While the products of the factors so far agree on both sides, their greatest common divisor is
    a shared factor. Where they differ, the side behind gets a factor of its own until they agree
    again. Dimensions of size 1 have own factors. No rule for empty tensors.
    """
    source, target = operand_shapes(op)[0], result_shapes(op)[0]
    if prod(source) == 0:
        return None
    builder = RuleBuilder([source], [target])
    i = o = 0
    dims_in = dims_out = factors_in = factors_out = 1
    while i < len(source) or o < len(target):
        if i < len(source) and source[i] == 1:
            builder.factor([i], [None], 1)
            i += 1
            continue
        if o < len(target) and target[o] == 1:
            builder.factor([None], [o], 1)
            o += 1
            continue
        if i < len(source) and dims_in == factors_in:
            dims_in *= source[i]
        if o < len(target) and dims_out == factors_out:
            dims_out *= target[o]
        next_in, next_out = dims_in // factors_in, dims_out // factors_out
        common = gcd(next_in, next_out)
        if factors_in == factors_out:
            if common > 1:
                builder.factor([i], [o], common)
                factors_in *= common
                factors_out *= common
            else:
                builder.factor([i], [None], next_in)
                builder.factor([None], [o], next_out)
                factors_in *= next_in
                factors_out *= next_out
        elif factors_in < factors_out:
            size = _catch_up(next_in, common, factors_in, factors_out)
            builder.factor([i], [None], size)
            factors_in *= size
        else:
            size = _catch_up(next_out, common, factors_out, factors_in)
            builder.factor([None], [o], size)
            factors_out *= size
        if i < len(source) and dims_in == factors_in:
            i += 1
        if o < len(target) and dims_out == factors_out:
            o += 1
    return builder.build(linear=((0,),), moves_data=True)


def _catch_up(following: int, common: int, behind: int, ahead: int) -> int:
    """Size of the next factor of the side whose product `behind` is less than `ahead`."""
    if ahead % behind == 0 and following % (ahead // behind) == 0:
        return ahead // behind
    return following // common if following > common else following


@sharding_rule("stablehlo.broadcast_in_dim", op_class="broadcast")
def broadcast_in_dim(op: Operation) -> ShardingRule:
    source, target = operand_shapes(op)[0], result_shapes(op)[0]
    from_dim = {out: dim for dim, out in enumerate(ints(op, "broadcast_dimensions"))}
    builder = RuleBuilder([source], [target])
    for out, size in enumerate(target):
        dim = from_dim.get(out)
        if dim is not None and source[dim] == 1 and size != 1:
            builder.factor([dim], [None], 1)
            dim = None
        builder.factor([dim], [out], size)
    return builder.build(linear=((0,),), moves_data=True)


@sharding_rule("stablehlo.broadcast")
def broadcast(op: Operation) -> ShardingRule:
    source, target = operand_shapes(op)[0], result_shapes(op)[0]
    added = len(target) - len(source)
    builder = RuleBuilder([source], [target])
    for out, size in enumerate(target):
        builder.factor([out - added if out >= added else None], [out], size)
    return builder.build(linear=((0,),), moves_data=True)


@sharding_rule("stablehlo.iota", "stablehlo.rng")
def made(op: Operation) -> ShardingRule:
    """The result may lie in parts: those of an iota are made with their offset, random numbers
    whole on every device and cut."""
    (shape,) = result_shapes(op)
    builder = RuleBuilder(operand_shapes(op), [shape])
    none: list[int | None] = [None] * len(op.operands)
    for dim, size in enumerate(shape):
        builder.factor(none, [dim], size)
    return builder.build()


@sharding_rule("tensor.empty", "linalg.fill")
def filled(op: Operation) -> ShardingRule:
    """Each device makes its own part; what linalg.fill writes to lies like the result."""
    (shape,) = result_shapes(op)
    shapes = operand_shapes(op)
    builder = RuleBuilder(shapes, [shape])
    for dim, size in enumerate(shape):
        builder.factor([dim if operand else None for operand in shapes], [dim], size)
    return builder.build()


@sharding_rule("stablehlo.slice", "stablehlo.pad")
def resize(op: Operation) -> ShardingRule:
    """Slice and pad: one factor a dimension; where the size changes, data moves between parts."""
    shapes, (target,) = operand_shapes(op), result_shapes(op)
    scalars: list[int | None] = [None] * (len(shapes) - 1)
    builder = RuleBuilder(shapes, [target])
    low, high = ints(op, "edge_padding_low"), ints(op, "edge_padding_high")
    for dim, (old, new) in enumerate(zip(shapes[0], target, strict=True)):
        same = old == new and not (low and (low[dim] or high[dim]))
        kind = PASS if same else FactorKind.PERMUTATION
        builder.factor([dim, *scalars], [dim], old, kind)
    return builder.build(linear=(tuple(range(len(shapes))),), moves_data=True)


@sharding_rule("stablehlo.concatenate")
def concatenate(op: Operation) -> ShardingRule:
    shapes, (target,) = operand_shapes(op), result_shapes(op)
    along = integer(op, "dimension")
    builder = RuleBuilder(shapes, [target])
    for dim, size in enumerate(target):
        kind = FactorKind.PERMUTATION if dim == along else PASS
        builder.factor([dim] * len(shapes), [dim], size, kind)
    return builder.build(linear=(tuple(range(len(shapes))),), moves_data=True)


@sharding_rule("stablehlo.reverse")
def reverse(op: Operation) -> ShardingRule:
    (shape,), results = operand_shapes(op), result_shapes(op)
    reversed_ = set(ints(op, "dimensions"))
    builder = RuleBuilder([shape], results)
    for dim, size in enumerate(shape):
        builder.factor([dim], [dim], size, FactorKind.PERMUTATION if dim in reversed_ else PASS)
    return builder.build(linear=((0,),), moves_data=True)


@sharding_rule("stablehlo.bitcast_convert")
def bitcast_convert(op: Operation) -> ShardingRule:
    """The dimension that a change of width adds or drops needs replication."""
    source, target = operand_shapes(op)[0], result_shapes(op)[0]
    builder = RuleBuilder([source], [target])
    for dim, size in enumerate(min(source, target, key=len)):
        builder.factor([dim], [dim], size)
    return builder.build()


@sharding_rule("stablehlo.set_dimension_size")
def set_dimension_size(op: Operation) -> ShardingRule:
    source, size_operand = operand_shapes(op)
    builder = RuleBuilder([source, size_operand], result_shapes(op))
    resized = integer(op, "dimension")
    for dim, size in enumerate(source):
        kind = FactorKind.NEED_REPLICATION if dim == resized else PASS
        builder.factor([dim, None], [dim], size, kind)
    return builder.build()
