# ruff: noqa: E501 (MLIR text)
"""Our sharding rules against Shardy's, rule by rule, on single ops and on lowered JAX programs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from autopar.dialects.rules.access import op_name
from autopar.dialects.rules.core import FactorKind, ShardingRule
from autopar.dialects.rules.registry import get_rule

from ..passes.shardy import our_module, parse, run, walk, walk_ours
from .rule_differences import DIFFERENCES, OURS_ONLY

Canonical = tuple[tuple[Any, ...], tuple[Any, ...]]


def canonical(rule: ShardingRule, *, with_kinds: bool) -> Canonical:
    """Factors renumbered by first appearance; those of one dimension alone without size."""
    order: dict[int, int] = {}
    places: dict[int, int] = {}
    for tensor in (*rule.operands, *rule.results):
        for dim in tensor:
            for factor in dim:
                order.setdefault(factor, len(order))
                places[factor] = places.get(factor, 0) + 1
    maps = tuple(
        tuple(tuple(order[f] for f in dim) for dim in tensor)
        for tensor in (*rule.operands, *rule.results)
    )
    factors: list[Any] = []
    for factor in sorted(order, key=lambda f: order[f]):
        shared = places[factor] > 1
        kind = rule.kinds[factor] if with_kinds and shared else None
        size = rule.factor_sizes[factor] if shared else 1
        factors.append((size, kind, factor in rule.blocked))
    return maps, tuple(factors)


def shardy_rule(op: Any) -> ShardingRule | None:
    from jaxlib.mlir.dialects import sdy

    if "sdy.sharding_rule" not in op.attributes:
        return None
    rule: Any = sdy.OpShardingRuleAttr(op.attributes["sdy.sharding_rule"])

    def mapping(tensors: Any) -> tuple[Any, ...]:
        return tuple(
            tuple(
                tuple(sdy.DimMappingAttr(d).factor_indices)
                for d in sdy.TensorMappingAttr(t).dim_mappings
            )
            for t in tensors
        )

    kinds = [FactorKind.PASS_THROUGH] * len(rule.factor_sizes)
    for kind, factors in (
        (FactorKind.REDUCTION, rule.reduction_factors),
        (FactorKind.NEED_REPLICATION, rule.need_replication_factors),
        (FactorKind.PERMUTATION, rule.permutation_factors),
    ):
        for factor in factors:
            kinds[factor] = kind
    return ShardingRule(
        tuple(rule.factor_sizes),
        mapping(rule.operand_mappings),
        mapping(rule.result_mappings),
        tuple(kinds),
        (None,) * len(kinds),
        frozenset(rule.blocked_propagation_factors),
    )


SKIPPED = ("func.", "builtin.", "sdy.", "shard.", "autopar.")


def compare(text: str) -> tuple[list[str], set[str]]:
    """Differences, and the names of the ops that were compared."""
    judged = run(parse(text), "func.func(sdy-populate-op-sharding-rules)")
    ours = [op for op in walk_ours(our_module(text)) if not op_name(op).startswith(SKIPPED)]
    theirs = [op for op in walk(judged.operation) if not op.name.startswith(SKIPPED)]
    assert [op_name(op) for op in ours] == [op.name for op in theirs]
    lines: list[str] = []
    compared: set[str] = set()
    for mine, judge in zip(ours, theirs, strict=True):
        name = op_name(mine)
        rule, expected = get_rule(mine), shardy_rule(judge)
        if expected is None:
            if rule is not None and name not in OURS_ONLY and not name.startswith("chlo."):
                lines.append(f"{name}: Shardy has no rule, ours {rule}")
            continue
        compared.add(name)
        if rule is None:
            lines.append(f"{name}: no rule, Shardy's {expected}")
            continue
        with_kinds = name not in DIFFERENCES
        a, b = canonical(rule, with_kinds=with_kinds), canonical(expected, with_kinds=with_kinds)
        if a != b:
            lines.append(f"{judge}\n  ours    {a}\n  Shardy's {b}")
    return lines, compared


A, B = "tensor<8x4x6xf32>", "tensor<8x6xf32>"


def unary(name: str, shape: str = A) -> str:
    return f"%r = stablehlo.{name} %a : {shape}"


OPS = [
    *(unary(n) for n in (
        "abs", "cbrt", "ceil", "cosine", "exponential", "exponential_minus_one", "floor", "log",
        "log_plus_one", "logistic", "negate", "round_nearest_afz", "round_nearest_even", "rsqrt",
        "sign", "sine", "sqrt", "tan", "tanh",
    )),
    *(f"%r = stablehlo.{n} %a, %a : {A}" for n in (
        "add", "atan2", "divide", "maximum", "minimum", "multiply", "power", "remainder", "subtract",
    )),
    *(f"%r = stablehlo.{n} %j, %j : tensor<8x4xi32>" for n in (
        "and", "or", "xor", "shift_left", "shift_right_arithmetic", "shift_right_logical",
    )),
    *(f"%r = stablehlo.{n} %j : tensor<8x4xi32>" for n in ("not", "popcnt", "count_leading_zeros")),
    f"%r = stablehlo.is_finite %a : ({A}) -> tensor<8x4x6xi1>",
    "%r = stablehlo.complex %a, %a : tensor<8x4x6xcomplex<f32>>",
    "%r = stablehlo.real %z : (tensor<8x4xcomplex<f32>>) -> tensor<8x4xf32>",
    "%r = stablehlo.imag %z : (tensor<8x4xcomplex<f32>>) -> tensor<8x4xf32>",
    f"%r = stablehlo.compare LT, %a, %a : ({A}, {A}) -> tensor<8x4x6xi1>",
    f"%r = stablehlo.convert %a : ({A}) -> tensor<8x4x6xbf16>",
    f"%r = stablehlo.reduce_precision %a, format = e5m10 : {A}",
    f"%r = stablehlo.clamp %s, %a, %s : (tensor<f32>, {A}, tensor<f32>) -> {A}",
    f"%r = stablehlo.clamp %a, %a, %a : {A}",
    f"%r = stablehlo.select %p, %a, %a : tensor<i1>, {A}",
    f"%q = stablehlo.compare LT, %a, %a : ({A}, {A}) -> tensor<8x4x6xi1>\n"
    f" %r = stablehlo.select %q, %a, %a : tensor<8x4x6xi1>, {A}",
    f"%r = stablehlo.bitcast_convert %a : ({A}) -> tensor<8x4x6x2xui16>",
    "%r = stablehlo.bitcast_convert %u : (tensor<8x4x2xui16>) -> tensor<8x4xf32>",
    f"%r = stablehlo.bitcast_convert %a : ({A}) -> tensor<8x4x6xi32>",
    f"%r = stablehlo.reverse %a, dims = [1] : {A}",
    f"%r = stablehlo.transpose %a, dims = [2, 0, 1] : ({A}) -> tensor<6x8x4xf32>",
    f"%r = stablehlo.broadcast_in_dim %b, dims = [0, 2] : ({B}) -> {A}",
    "%r = stablehlo.broadcast_in_dim %one, dims = [0, 1] : (tensor<1x4xf32>) -> tensor<8x4xf32>",
    "%r = stablehlo.broadcast_in_dim %one, dims = [1, 2] : (tensor<1x4xf32>) -> tensor<8x1x4xf32>",
    f'%r = "stablehlo.broadcast"(%b) <{{broadcast_sizes = array<i64: 3>}}> : ({B}) -> tensor<3x8x6xf32>',
    f"%r = stablehlo.slice %a [0:8, 1:3, 0:6] : ({A}) -> tensor<8x2x6xf32>",
    f"%r = stablehlo.slice %a [0:8:2, 0:4, 0:6] : ({A}) -> tensor<4x4x6xf32>",
    f"%r = stablehlo.pad %a, %s, low = [0, 1, 0], high = [0, 0, 2], interior = [0, 0, 0] : ({A}, tensor<f32>) -> tensor<8x5x8xf32>",
    f"%r = stablehlo.pad %a, %s, low = [0, 1, 0], high = [0, -1, 0], interior = [0, 0, 0] : ({A}, tensor<f32>) -> {A}",
    f"%r = stablehlo.concatenate %a, %a, dim = 1 : ({A}, {A}) -> tensor<8x8x6xf32>",
    *(f"%r = stablehlo.reshape %a : ({A}) -> tensor<{shape}xf32>" for shape in (
        "4x48", "16x1x12", "192", "8x24", "32x6", "2x4x2x2x6", "3x64", "24x8", "8x4x1x6", "12x16",
        "1x8x4x6", "2x3x4x8",
    )),
    "%r = stablehlo.iota dim = 0 : tensor<8xf32>",
    f"%r = stablehlo.optimization_barrier %a : {A}",
    f"%r = stablehlo.dot_general %a, %b, batching_dims = [0] x [0], contracting_dims = [2] x [1] : ({A}, {B}) -> tensor<8x4xf32>",
    f"%r = stablehlo.dot_general %a, %a, contracting_dims = [2, 1] x [2, 1] : ({A}, {A}) -> tensor<8x8xf32>",
    f"%r = stablehlo.dot_general %a, %b, contracting_dims = [0] x [0] : ({A}, {B}) -> tensor<4x6x6xf32>",
    f"%r = stablehlo.dot %b, %k : ({B}, tensor<6x3xf32>) -> tensor<8x3xf32>",
    f"%r = stablehlo.dynamic_slice %a, %i, %i, %i, sizes = [8, 1, 6] : ({A}, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<8x1x6xf32>",
    f"%d = stablehlo.slice %a [0:8, 1:2, 0:6] : ({A}) -> tensor<8x1x6xf32>\n"
    f" %r = stablehlo.dynamic_update_slice %a, %d, %i, %i, %i : ({A}, tensor<8x1x6xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> {A}",
    "%st = stablehlo.constant dense<1> : tensor<2xui64>\n %r:2 = stablehlo.rng_bit_generator %st, algorithm = THREE_FRY : (tensor<2xui64>) -> (tensor<2xui64>, tensor<8x4xui32>)",
    f"%r = stablehlo.fft %a, type = RFFT, length = [6] : ({A}) -> tensor<8x4x4xcomplex<f32>>",
    "%r = stablehlo.fft %z, type = FFT, length = [4] : (tensor<8x4xcomplex<f32>>) -> tensor<8x4xcomplex<f32>>",
    "%r = stablehlo.cholesky %l : tensor<8x4x4xf32>",
    *(f'%r = "stablehlo.triangular_solve"(%l, %l) <{{left_side = {left}, lower = true, unit_diagonal = false, transpose_a = #stablehlo<transpose {t}>}}> : (tensor<8x4x4xf32>, tensor<8x4x4xf32>) -> tensor<8x4x4xf32>'
      for left in ("true", "false") for t in ("TRANSPOSE", "NO_TRANSPOSE", "ADJOINT")),
    "%r = stablehlo.custom_call @annotate_device_placement(%b) : (tensor<8x6xf32>) -> tensor<8x6xf32>",
    "%r:2 = stablehlo.custom_call @mhlo.topk(%b) : (tensor<8x6xf32>) -> (tensor<8x2xf32>, tensor<8x2xi32>)",
    "%r = stablehlo.custom_call @unknown(%b) : (tensor<8x6xf32>) -> tensor<8x6xf32>",
    "%r = chlo.square %b : tensor<8x6xf32> -> tensor<8x6xf32>",
    '%r = "stablehlo.all_gather"(%a) <{all_gather_dim = 1 : i64, replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>}> : (tensor<8x4x6xf32>) -> tensor<8x8x6xf32>',
    '%r = "stablehlo.all_to_all"(%a) <{split_dimension = 1 : i64, concat_dimension = 0 : i64, split_count = 2 : i64, replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>}> : (tensor<8x4x6xf32>) -> tensor<16x2x6xf32>',
]  # fmt: skip

ARGUMENTS = (
    f"%a: {A}, %b: {B}, %j: tensor<8x4xi32>, %z: tensor<8x4xcomplex<f32>>, %s: tensor<f32>, "
    "%p: tensor<i1>, %u: tensor<8x4x2xui16>, %one: tensor<1x4xf32>, %k: tensor<6x3xf32>, "
    "%i: tensor<i32>, %l: tensor<8x4x4xf32>"
)


def op_id(text: str) -> str:
    """The name of the last op of a text."""
    return re.findall(r"= \"?(?:stablehlo|chlo)\.(\w+)", text)[-1]


@pytest.mark.parametrize("op", OPS, ids=op_id)
def test_op(op: str) -> None:
    lines, _ = compare(f"func.func @main({ARGUMENTS}) {{\n {op}\n return\n}}")
    assert not lines, "\n".join(lines)


def lowered(function: Callable[..., Any], *args: Any) -> str:
    import jax

    return jax.jit(function).lower(*args).as_text()


def programs() -> dict[str, Callable[[], str]]:
    """JAX functions whose lowering has the rarer ops."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    def f(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    def conv(x: Any, k: Any, **kwargs: Any) -> Any:
        return lax.conv_general_dilated(
            x, k, padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **kwargs
        )

    def conv_grads(**kwargs: Any) -> Callable[..., Any]:
        return jax.grad(lambda x, k: conv(x, k, **kwargs).sum(), argnums=(0, 1))

    i32 = jnp.int32
    return {
        "conv": lambda: lowered(
            lambda x, k: conv(x, k, window_strides=(2, 2)), f(8, 32, 32, 4), f(7, 7, 4, 16)
        ),
        "conv_gradients": lambda: lowered(
            conv_grads(window_strides=(2, 2)), f(8, 32, 32, 4), f(3, 3, 4, 16)
        ),
        "conv_grouped": lambda: lowered(
            conv_grads(window_strides=(1, 1), feature_group_count=4),
            f(8, 16, 16, 8),
            f(3, 3, 2, 16),
        ),
        "conv_batch_groups": lambda: lowered(
            lambda x, k: conv(x, k, window_strides=(1, 1), batch_group_count=2),
            f(8, 16, 16, 8),
            f(3, 3, 8, 16),
        ),
        "pooling": lambda: lowered(
            jax.grad(
                lambda x: (
                    lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
                ).sum()
            ),
            f(8, 16, 16, 4),
        ),
        "cumsum": lambda: lowered(lambda x: jnp.cumsum(x, 1), f(8, 16)),
        "argmax": lambda: lowered(lambda x: jnp.argmax(x, 1), f(8, 16)),
        "reductions": lambda: lowered(
            lambda x: (x.max(0), x.min(1), x.prod(0), x.sum(), jnp.all(x > 0, 0)), f(8, 16)
        ),
        "sort": lambda: lowered(lambda x: (jnp.sort(x, 1), jnp.argsort(x, 0)), f(8, 16)),
        "sort_1d": lambda: lowered(jnp.sort, f(16)),
        "embedding": lambda: lowered(
            jax.grad(lambda t, i: t[i].sum()), f(100, 16), f(8, 5, dtype=i32)
        ),
        "indexing": lambda: lowered(
            lambda x, i: (x.at[i].set(1.0), x.at[:, i].add(2.0), x[:, i], x.at[i].max(3.0)),
            f(16, 16),
            f(4, dtype=i32),
        ),
        "take_along_axis": lambda: lowered(
            lambda x, i: jnp.take_along_axis(x, i, 1), f(8, 16), f(8, 3, dtype=i32)
        ),
        "vmapped_slices": lambda: lowered(
            jax.vmap(lambda x, i: lax.dynamic_slice(x, (i,), (3,))), f(8, 16), f(8, dtype=i32)
        ),
        "scan": lambda: lowered(
            lambda x, w: lax.scan(lambda c, k: (jnp.tanh(c @ k), c), x, w), f(8, 4), f(5, 4, 4)
        ),
        "attention": lambda: lowered(
            lambda q, k, v: (
                jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k), -1) @ v.transpose(0, 2, 1, 3)
            ),
            *[f(8, 16, 4, 8)] * 3,
        ),
        "fft": lambda: lowered(lambda x: jnp.fft.irfft2(jnp.fft.rfft2(x)), f(4, 8, 8)),
        "solve_triangular": lambda: lowered(
            lambda a, b: jax.scipy.linalg.solve_triangular(a, b), f(4, 4), f(4, 3)
        ),
        "random": lambda: lowered(lambda k: jax.random.normal(k, (8, 4)), f(2, dtype=jnp.uint32)),
        "padding": lambda: lowered(
            lambda x: (jnp.pad(x, 2), jnp.roll(x, 3, 0), x[::-1], x[1:, ::2]), f(8, 16)
        ),
    }


@pytest.mark.parametrize("name", sorted(programs()))
def test_program(name: str) -> None:
    lines, compared = compare(programs()[name]())
    assert compared
    assert not lines, "\n".join(lines)
