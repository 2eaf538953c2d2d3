"""Rules of elementwise ops: every dimension of the result is a factor, shared by all operands.

Scalar operands (clamp's bounds, select's predicate) hold no factor.
"""

from __future__ import annotations

from functools import partial

from xdsl.ir import Operation

from ..tensors import element_type, is_bool
from .access import (
    Shape,
    is_complex,
    is_integer,
    keeps_sums,
    operand_shapes,
    result_shapes,
)
from .core import RuleBuilder, ShardingRule
from .registry import sharding_rule

Linear = tuple[tuple[int, ...], ...]


def pointwise_rule(op: Operation, *, linear: Linear = (), moves_data: bool = False) -> ShardingRule:
    """One pass-through factor a dimension, over all tensors of the result's rank."""
    results = result_shapes(op)
    operands = operand_shapes(op)
    shape = max([*results, *operands], key=len, default=())
    builder = RuleBuilder(operands, results)
    for dim, size in enumerate(shape):

        def at(tensor: Shape, dim: int = dim) -> int | None:
            return dim if len(tensor) == len(shape) else None

        builder.factor([at(t) for t in operands], [at(t) for t in results], size)
    return builder.build(linear=linear, moves_data=moves_data)


PLAIN = """
    abs and atan2 cbrt ceil compare cosine count_leading_zeros exponential exponential_minus_one
    floor is_finite log log_plus_one logistic maximum minimum not or popcnt power
    reduce_precision remainder round_nearest_afz round_nearest_even rsqrt shift_right_arithmetic
    shift_right_logical sign sine sqrt tan tanh xor clamp uniform_quantize uniform_dequantize
""".split()

POINTWISE = """
    map all_reduce collective_permute collective_broadcast collective_reduce cross-replica-sum
""".split()
"""Elementwise by their shapes, but not to propagation."""

CHLO = """
    acos acosh asin asinh atan atanh bessel_i1e conj constant_like cosh digamma
    erf erf_inv erfc is_inf is_neg_inf is_pos_inf lgamma mulhi next_after polygamma sinh
    square tan zeta
    _asin_acos_kernel
""".split()

CHLO_BROADCASTING = """
    broadcast_add broadcast_and broadcast_atan2 broadcast_compare broadcast_complex
    broadcast_divide broadcast_maximum broadcast_minimum broadcast_multiply broadcast_next_after
    broadcast_or broadcast_polygamma broadcast_power broadcast_remainder broadcast_select
    broadcast_shift_left broadcast_shift_right_arithmetic broadcast_shift_right_logical
    broadcast_subtract broadcast_xor broadcast_zeta
""".split()

ARITH = """
    divsi divui remf remsi remui andi ori xori shrsi shrui maximumf minimumf maxnumf minnumf
    maxsi maxui minsi minui cmpi cmpf extsi extui truncf sitofp uitofp fptosi fptoui bitcast
""".split()


elementwise = partial(sharding_rule, op_class="elementwise")


@elementwise(*(f"stablehlo.{n}" for n in PLAIN), *(f"arith.{n}" for n in ARITH))
def plain(op: Operation) -> ShardingRule:
    return pointwise_rule(op)


@sharding_rule(*(f"stablehlo.{n}" for n in POINTWISE))
def pointwise(op: Operation) -> ShardingRule | None:
    return pointwise_rule(op) if op.results else None


@elementwise(*(f"chlo.{n}" for n in CHLO))
def chlo(op: Operation) -> ShardingRule:
    return pointwise_rule(op, linear=((0,),) if op.name == "chlo.conj" else ())


@sharding_rule(*(f"chlo.{n}" for n in CHLO_BROADCASTING))
def chlo_broadcasting(op: Operation) -> ShardingRule | None:
    """Only without an actual broadcast of dimensions (JAX emits none of these)."""
    shape = result_shapes(op)[0]
    if any(s and s != shape for s in operand_shapes(op)):
        return None
    return pointwise_rule(op)


@elementwise(
    "stablehlo.add", "stablehlo.subtract", "arith.addi", "arith.addf", "arith.subi", "arith.subf"
)
def additive(op: Operation) -> ShardingRule:
    linear = () if is_bool(op.results[0].type) else ((0, 1),)
    return pointwise_rule(op, linear=linear)


@elementwise("stablehlo.negate", "arith.negf")
def negate(op: Operation) -> ShardingRule:
    return pointwise_rule(op, linear=((0,),))


@elementwise("stablehlo.multiply", "arith.muli", "arith.mulf")
def multiply(op: Operation) -> ShardingRule:
    linear = () if is_bool(op.results[0].type) else ((0,), (1,))
    return pointwise_rule(op, linear=linear)


@elementwise("stablehlo.divide", "arith.divf")
def divide(op: Operation) -> ShardingRule:
    # Integer division rounds: not linear.
    linear = () if is_integer(element_type(op.results[0].type)) else ((0,),)
    return pointwise_rule(op, linear=linear)


@elementwise("stablehlo.shift_left", "arith.shli")
def shift_left(op: Operation) -> ShardingRule:
    return pointwise_rule(op, linear=((0,),))


@elementwise(
    "stablehlo.convert",
    "arith.extf",
    "arith.trunci",
)
def convert(op: Operation) -> ShardingRule:
    source, target = element_type(op.operands[0].type), element_type(op.results[0].type)
    return pointwise_rule(op, linear=((0,),) if keeps_sums(source, target) else ())


@elementwise("stablehlo.select", "arith.select")
def select(op: Operation) -> ShardingRule:
    return pointwise_rule(op, linear=((1, 2),), moves_data=True)


@elementwise("stablehlo.real", "stablehlo.imag")
def real_part(op: Operation) -> ShardingRule:
    # On a real operand `real` is the identity and `imag` is zero.
    return pointwise_rule(op, linear=((0,),))


@elementwise("stablehlo.complex")
def complex_(op: Operation) -> ShardingRule:
    assert is_complex(element_type(op.results[0].type))
    return pointwise_rule(op, linear=((0, 1),))


CONSTRAINTS = ("autopar.constraint", "sdy.sharding_constraint")
IDENTITIES = (
    "autopar.reshard",
    "sdy.reshard",
    "sdy.propagation_barrier",
    "sdy.data_flow_edge",
    "stablehlo.optimization_barrier",
    "shard.shard",
    "mesh.shard",
)


@elementwise(*CONSTRAINTS)
@sharding_rule(*IDENTITIES)
def identity(op: Operation) -> ShardingRule | None:
    """Result i is operand i (`stablehlo.optimization_barrier` has many; each has own factors)."""
    if len(op.results) == 1:
        return pointwise_rule(op, linear=((0,),), moves_data=True)
    shapes = result_shapes(op)
    builder = RuleBuilder(shapes, shapes)
    for index, shape in enumerate(shapes):
        for dim, size in enumerate(shape):
            own = [dim if tensor == index else None for tensor in range(len(shapes))]
            builder.factor(own, own, size)
    return builder.build(linear=tuple((index,) for index in range(len(shapes))))
