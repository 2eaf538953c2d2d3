"""Rules of decompositions, transforms, normalisations, random bits; and the ops without rules."""

from __future__ import annotations

from xdsl.ir import Operation

from .access import attribute, boolean, integer, ints, operand_shapes, result_shapes
from .core import FactorKind, RuleBuilder, ShardingRule
from .registry import declare_no_rule, sharding_rule

PASS, REPLICATE = FactorKind.PASS_THROUGH, FactorKind.NEED_REPLICATION


@sharding_rule("stablehlo.cholesky")
def cholesky(op: Operation) -> ShardingRule:
    (shape,), results = operand_shapes(op), result_shapes(op)
    builder = RuleBuilder([shape], results)
    for dim, size in enumerate(shape):
        builder.factor([dim], [dim], size, PASS if dim < len(shape) - 2 else REPLICATE)
    return builder.build()


@sharding_rule("stablehlo.triangular_solve")
def triangular_solve(op: Operation) -> ShardingRule:
    """op(a) x = b or x op(a) = b: the columns (left side) or rows of b are systems of their own."""
    (a, b), (out,) = operand_shapes(op), result_shapes(op)
    builder = RuleBuilder([a, b], [out])
    for dim, size in enumerate(a[:-2]):
        builder.factor([dim, dim], [dim], size)
    row, column = len(a) - 2, len(a) - 1
    transposed = "NO_TRANSPOSE" not in str(attribute(op, "transpose_a"))
    if boolean(op, "left_side"):
        free, contracting = (column, row) if transposed else (row, column)
        builder.factor([free, row], [None], a[free], REPLICATE)
        builder.factor([None, column], [column], b[column])
        builder.factor([contracting, None], [row], a[contracting], REPLICATE)
    else:
        free, contracting = (row, column) if transposed else (column, row)
        builder.factor([None, row], [row], b[row])
        builder.factor([free, column], [None], a[free], REPLICATE)
        builder.factor([contracting, None], [column], a[contracting], REPLICATE)
    return builder.build(linear=((1,),))


@sharding_rule("stablehlo.fft")
def fft(op: Operation) -> ShardingRule:
    (shape,), (out,) = operand_shapes(op), result_shapes(op)
    batch = len(shape) - len(ints(op, "fft_length"))
    builder = RuleBuilder([shape], [out])
    for dim, size in enumerate(shape):
        last = dim == len(shape) - 1
        builder.factor(
            [dim],
            [dim],
            size,
            PASS if dim < batch else REPLICATE,
            blocked=last and shape[dim] != out[dim],
        )
    return builder.build(linear=((0,),))


@sharding_rule("stablehlo.rng_bit_generator")
def rng_bit_generator(op: Operation) -> ShardingRule:
    """The state is whole on every device; the bits may lie in parts: partitioning makes them whole
    on every device, which keeps its part."""
    (state,), results = operand_shapes(op), result_shapes(op)
    builder = RuleBuilder([state], results)
    for dim, size in enumerate(state):
        builder.factor([dim], [dim, None], size, REPLICATE, blocked=True)
    for dim, size in enumerate(results[1]):
        builder.factor([None], [None, dim], size)
    return builder.build()


@sharding_rule(
    "stablehlo.batch_norm_training", "stablehlo.batch_norm_inference", "stablehlo.batch_norm_grad"
)
def batch_norm(op: Operation) -> ShardingRule:
    """The feature dimension passes; statistics need the other dimensions whole."""
    shapes, results = operand_shapes(op), result_shapes(op)
    feature = integer(op, "feature_index")
    is_inference = "inference" in op.name
    full = {0, 4} if "grad" in op.name else {0}
    builder = RuleBuilder(shapes, results)
    for dim, size in enumerate(shapes[0]):
        own = 0 if dim == feature else None
        builder.factor(
            [dim if index in full else own for index in range(len(shapes))],
            [own if index else dim for index in range(len(results))],
            size,
            PASS if dim == feature or is_inference else REPLICATE,
        )
    return builder.build()


declare_no_rule(
    "a constant is made where it is used",
    "stablehlo.constant arith.constant chlo.constant sdy.constant".split(),
)
declare_no_rule(
    "its values share shardings through data-flow edges (regions.py)",
    "stablehlo.while stablehlo.case stablehlo.if sdy.manual_computation sdy.named_computation "
    "func.call".split(),
)
declare_no_rule("a terminator", "stablehlo.return func.return sdy.return".split())
declare_no_rule(
    "a token or a scalar: nothing to split",
    "stablehlo.after_all stablehlo.create_token stablehlo.partition_id stablehlo.replica_id "
    "stablehlo.get_dimension_size shard.process_linear_index shard.process_multi_index".split(),
)
declare_no_rule(
    "talks to the host or to another device: runs once, with full values",
    "stablehlo.infeed stablehlo.outfeed stablehlo.send stablehlo.recv stablehlo.async_start "
    "stablehlo.async_done".split(),
)
declare_no_rule(
    "shapes are static here",
    "stablehlo.dynamic_broadcast_in_dim stablehlo.dynamic_conv stablehlo.dynamic_gather "
    "stablehlo.dynamic_iota stablehlo.dynamic_pad stablehlo.dynamic_reshape "
    "stablehlo.real_dynamic_slice".split(),
)
declare_no_rule("a call, inlined first", ["stablehlo.composite"])
declare_no_rule(
    "JAX does not emit it; StableHLO's own passes legalise it",
    "stablehlo.einsum stablehlo.unary_einsum stablehlo.torch_index_select chlo.scan".split(),
    told=True,
)
declare_no_rule(
    "a tuple: its elements have shardings", "stablehlo.tuple stablehlo.get_tuple_element".split()
)
declare_no_rule(
    "import-sdy makes it a reshard",
    "sdy.all_gather sdy.all_reduce sdy.all_slice sdy.all_to_all sdy.collective_permute "
    "sdy.reduce_scatter sdy.replicated_to_unreduced sdy.sharded_to_unreduced".split(),
)
declare_no_rule("a mark of Shardy's own propagation", ["sdy.func_data_flow_edge"])
declare_no_rule("a mark on its operand", ["sdy.sharding_group"])
declare_no_rule("a declaration", "sdy.mesh shard.grid func.func builtin.module".split())
