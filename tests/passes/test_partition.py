"""Partitioned programs give what unpartitioned ones give: elementwise, dot, reduce, shape ops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from autopar.dialects.sharding import Grid
from autopar.passes.partition import local_builder
from tests.oracle import spmd_module

from .cases import CUBE, GRID, Case, Cases, spec

# fmt: off
table = Cases()
add, A, I = table.add, table.normal, table.integers  # noqa: E741

# ---- elementwise, dtypes -------------------------------------------------------------------------

add("add", lambda a, b: a + b * 2, [A(8, 6), A(8, 6)], ["x y", None])
add("broadcast", lambda a, b: jnp.where(a > 0, a, b[None]), [A(10, 6), A(6)], ["y x", "y"])
add("conflict", lambda a, b: a * b + a, [A(8, 12), A(8, 12)], ["x y", "y x"], ["yx -"])
add("orders", lambda a, b: a - b, [A(16, 4), A(16, 4)], ["xy -", "yx -"], ["- y"])
add("orders_uneven", lambda a, b: a - b, [A(13, 4), A(13, 4)], ["xy -", "yx -"])
add("scalars", lambda a, s: (a * s + s, s * 2, jnp.clip(a, s, 1.0)), [A(7), np.float32(-0.3)],
    ["xy", ""])
add("chlo", lambda a: (a**2, jax.lax.erf_inv(a * 0.1), jnp.sinh(a), jax.scipy.special.digamma(
    jnp.abs(a) + 1), jnp.arccos(jnp.tanh(a)), lax.lgamma(jnp.abs(a) + 1), lax.is_finite(a),
    jnp.nextafter(a, a + 1), lax.bessel_i1e(a)), [A(10, 6)], ["y x"])
add("int", lambda a: (a // 3, a % 5, a.sum(), a.max(0), jnp.bitwise_or.reduce(a, 0),
    jnp.bitwise_xor.reduce(a, 1), jnp.bitwise_and.reduce(a, 0), lax.population_count(a),
    a << 2, a >> 1), [I(50, 10, 6)], ["y x"])
add("int8", lambda a, b: (a + b, (a @ b.T), a.sum(0), a.max(), jnp.prod(a, 1)),
    [I(50, 10, 6).astype(np.int8), I(5, 10, 6).astype(np.int8)], ["y x", "x y"])
add("uint", lambda a, b: (a - b, a.min(0), (a @ b.T), a.sum(), jnp.argmin(a, 1)),
    [I(50, 10, 6).astype(np.uint8), I(5, 10, 6).astype(np.uint8)], ["y x", "x y"])
add("int8_dot", lambda a, b: lax.dot_general(a, b, (((1,), (0,)), ((), ())),
    preferred_element_type=jnp.int32), [I(50, 9, 7).astype(np.int8), I(50, 7, 5).astype(np.int8)],
    ["x y", "y -"])
add("bool", lambda a: (jnp.any(a > 0, 0), jnp.all(a > -1, 1), (a > 0).sum(), ~(a > 0),
    jnp.logical_xor.reduce(a > 0, 1)), [A(10, 6)], ["y x"])
add("bf16", lambda a, b: (a.astype(jnp.bfloat16) @ b.astype(jnp.bfloat16)).astype(jnp.float32),
    [np.round(A(8, 8)), np.round(A(8, 4))], ["x y", None])
add("bf16_args", lambda a, b: (a + b, a.max(0), a * b), [A(7, 5).astype(jnp.bfloat16),
    A(7, 5).astype(jnp.bfloat16)], ["y x", "x -"])
add("f16_f8", lambda a: (a.astype(jnp.float16) + 1, a.astype(jnp.float8_e4m3fn)), [A(7, 5)],
    ["y x"])
for name in ("float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz",
             "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn", "int4", "uint4"):
    # Not all have infinities: the extremes are reduced with the ends of the finite range.
    add(f"extremes_{name}", lambda a: (a.max(0), a.min(0), lax.cummax(a, 0), lax.cummin(a, 0)),
        [(I(3, 11, 2, low=0) + 1).astype(name)], ["y -"])
add("complex", lambda a: (jnp.abs(jnp.fft.fft(a)), jnp.fft.rfft(a, axis=0)), [A(8, 6)], ["x y"])
add("complex_args", lambda a, b: (a @ b, a.sum(0), jnp.conj(a), a.real, a.imag, a * a[:1]),
    [A(7, 6) + 1j * A(7, 6), A(6, 5) + 1j * A(6, 5)], ["y x", "x y"])
add("bitcast", lambda a: (lax.bitcast_convert_type(a, jnp.int32), lax.bitcast_convert_type(
    a, jnp.uint8)), [A(7, 6)], ["y x"])
add("reduce_precision", lambda a: lax.reduce_precision(a, 8, 7), [A(7, 6)], ["y x"])

# ---- dot -----------------------------------------------------------------------------------------

add("dot", lambda a, b: a @ b, [A(8, 16), A(16, 12)], ["x y", "y -"])
add("dot_uneven", lambda a, b: a @ b, [A(7, 13), A(13, 5)], ["x y", "y -"])
add("dot_pinned", lambda a, b: a @ b, [A(7, 13), A(13, 5)], ["x y", "x y"], ["y x"])
add("dot_scattered", lambda a, b: a @ b, [A(8, 16), A(16, 12)], ["- xy", "xy -"], ["x y"])
add("dot_scattered_uneven", lambda a, b: a @ b, [A(9, 14), A(14, 7)], ["- yx", "yx -"], ["y x"])
add("dot_chain", lambda a, b, c: (a @ b) @ c, [A(8, 16), A(16, 12), A(12, 6)],
    ["x -", "- y", "y -"])
add("dot_vectors", lambda a, b: (a @ b, jnp.outer(a, b), jnp.vdot(a, b)), [A(13), A(13)],
    ["xy", "y"])
add("dot_batch", lambda q, k: jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k)),
    [A(4, 6, 8, 5), A(4, 6, 8, 5)], ["x - y -", "x - y -"])
add("dot_batch_uneven", lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k),
    [A(3, 6, 5, 5), A(3, 6, 5, 5)], ["x - y -", "y - - x"])
add("dot_multi_contract", lambda a, b: jnp.einsum("abcd,cdbe->ae", a, b),
    [A(4, 3, 6, 5), A(6, 5, 3, 7)], ["x - y -", "y - - x"])
add("linear_chain", lambda a, b, c: -2.0 * (a @ b + c).T.reshape(-1), [A(8, 16), A(16, 12),
    A(8, 12)], ["- xy", "xy -", "x y"])
add("sum_of_dots", lambda a, b, c: a @ b + a @ c - (a @ b) / 3, [A(8, 16), A(16, 12), A(16, 12)],
    ["- y", "y -", "y -"])
add("partial_square", lambda a, b: (a @ b) ** 2 + (a @ b), [A(8, 16), A(16, 12)], ["- y", "y -"])
add("partial_select", lambda a, b: jnp.where(a[:, :1] > 0, a @ b, 0.0), [A(8, 16), A(16, 12)],
    ["- y", "y -"])
for name, scale in (("zero", lambda a: a / 0), ("inf", lambda a: a * jnp.inf), ("infs", lambda a: (
        a * np.array([2, 1, -np.inf], np.float32))), ("half", lambda a: a / 2 * 3)):
    add(f"partial_scaled_by_{name}", lambda a, b, f=scale: f(a @ b), [A(8, 16), A(16, 3)],
        ["- y", "y -"])
add("partial_concat", lambda a, b: jnp.concatenate([a @ b, a @ b * 2])[3:9], [A(8, 16), A(16, 12)],
    ["- y", "y -"])
add("partial_convert", lambda a, b: (a.astype(jnp.bfloat16) @ b.astype(jnp.bfloat16)).astype(
    jnp.float32) + 1, [np.round(A(8, 8)), np.round(A(8, 4))], ["- y", "y -"])

# ---- reductions ----------------------------------------------------------------------------------

add("reduce", lambda a: (a.sum(0), a.max(1), a.mean(), jnp.argmax(a, 0), jnp.prod(a, 1),
    jnp.argmin(a)), [A(10, 6)], ["xy -"])
add("reduce_2d", lambda a: (a.sum(0), a.max(1), a.mean(), jnp.min(a, 0)), [A(10, 6)], ["y x"])
add("argmax", lambda a, i: (jnp.argmax(a, 0), jnp.argmin(a, 1), jnp.argmax(i, 1), jnp.argmax(i),
    jnp.argmin(a)), [np.where(A(10, 7) > 1.2, np.nan, A(10, 7)).astype(np.float32), I(3, 10, 7)],
    ["y x", "x y"])
add("argmax_ties", lambda a: (jnp.argmax(a, 1), jnp.argmin(-a, 0)), [I(2, 5, 13)], ["- xy"])
add("argmax_nothing", lambda a: (jnp.argmax(a, 1), jnp.argmin(-a, 1)),
    [np.full((3, 11), -np.inf, np.float32)], ["- yx"])
add("argmax_result_split", lambda a: jnp.argmax(a, 1), [A(16, 11)], ["- y"], ["y"])
add("argmax_small", lambda a: jnp.argmax(a, 1), [A(6, 2)], ["x y"])
add("iota_whole", lambda a: (jnp.argsort(a, 1), lax.sort((a, jnp.cos(lax.iota(np.float32, 13)[None]
    + jnp.zeros((5, 13)))), dimension=1)), [A(5, 13)], ["x y"])
# No max or min of a split dimension here: XLA's all-reduce drops NaN, under jax.jit as well.
add("reduce_nan", lambda a: (a.max(), jnp.nanmax(a, 0), jnp.argmax(a, 1), jnp.nansum(a, 0))[1:],
    [np.where(A(10, 6) > 1.2, np.nan, A(10, 6)).astype(np.float32)], ["y x"])
add("reduce_variadic", lambda a, b: lax.reduce((a, b), (np.float32(0), np.float32(-np.inf)),
    lambda x, y: (x[0] + y[0], lax.max(x[1], y[1])), (0,)), [A(10, 6), A(10, 6)],
    ["y x", "y x"])
add("reduce_same_twice", lambda a, b: lax.reduce((a, b), (np.float32(0), np.float32(1)),
    lambda x, y: (x[0] + y[0], x[1] + y[1]), (0,)), [A(10, 6), A(10, 6)], ["y x", "y x"])
add("reduce_init", lambda a: lax.reduce(a, np.float32(3), lax.add, (0,)), [A(10, 6)], ["y x"])
add("reduce_init_arg", lambda a, s: (lax.reduce(a, s, lax.add, (0,)), lax.reduce(a, s, lax.mul, (
    1,)), lax.reduce(a, s, lax.max, (0, 1))), [A(10, 6), np.float32(1.5)], ["y x", ""])
add("reduce_pinned", lambda a: (a.sum(0), a.sum(1)), [A(12, 10)], ["xy -"], ["yx", "-"])
add("softmax", lambda a: (jax.nn.log_softmax(a), jax.nn.logsumexp(a, 0)), [A(10, 6)], ["y x"])
add("norm", lambda a: (a - a.mean(-1, keepdims=True)) / jnp.sqrt(a.var(-1, keepdims=True) + 1e-5),
    [A(10, 6)], ["x y"])
add("std_median", lambda a: (a.std(0), jnp.median(a, 1), jnp.ptp(a, 0)), [A(10, 6)], ["y x"])
add("sort", lambda a: (jnp.sort(a, 0), jnp.sort(a, 1), lax.top_k(a, 2), jnp.argsort(a, 1)),
    [A(10, 6)], ["y x"])
add("sort_pairs", lambda a, b: lax.sort((a, b), dimension=0, num_keys=2), [I(3, 10, 6), A(10, 6)],
    ["y x", "x -"])
add("approx_top_k", lambda a: lax.approx_max_k(a, 2), [A(10, 6)], ["y -"])
add("cumulative_both", lambda a: lax.cumsum(lax.cumsum(a, 0), 1), [A(10, 6)], ["y x"], ["y x"])
add("cumulative_int", lambda a: (jnp.cumsum(a, 0), lax.cummin(a, 0, reverse=True)), [I(9, 11, 6)],
    ["xy -"], ["yx -", "y x"])
add("cumulative_pinned", lambda a: (lax.cumsum(a, 0), lax.cumprod(a, 1, reverse=True), lax.cummax(
    a, 0, reverse=True)), [A(11, 6)], ["y x"], ["y x", "x y", "xy -"])
add("cumulative", lambda a: (jnp.cumsum(a, 0), jnp.cumsum(a, 1), jnp.cumprod(a, 0),
    lax.cummax(a, 1), lax.cumlogsumexp(a, 0), lax.cumsum(a, 0, reverse=True)),
    [A(10, 6)], ["y x"])

# ---- shape ---------------------------------------------------------------------------------------

add("slice", lambda a: (a[1:9], a[::2], a[3:, 1:4], a[::-3], a[2:7:3, 5:]), [A(10, 6)], ["y x"])
add("slice_pinned", lambda a: (a[1:9], a[::2, 1:]), [A(10, 6)], ["y x"], ["x y", "- yx"])
add("pad", lambda a: (jnp.pad(a, ((1, 2), (0, 3))), lax.pad(a, 0.5, ((1, 1, 1), (-1, 2, 2))),
    lax.pad(a, 0.5, ((-3, -2, 0), (0, 0, 3)))), [A(10, 6)], ["y x"])
add("pad_modes", lambda a: (jnp.pad(a, 2, mode="wrap"), jnp.pad(a, 2, mode="reflect"), jnp.pad(
    a, 1, mode="edge")), [A(10, 6)], ["y x"])
add("concatenate", lambda a, b: (jnp.concatenate([a, b]), jnp.concatenate([b, b, a, b]),
    jnp.stack([a, a], 1)), [A(10, 6), A(5, 6)], ["y x", "y -"])
add("concatenate_along", lambda a, b: (jnp.concatenate([a, b, a], 1), jnp.hstack([a, b])),
    [A(10, 6), A(10, 3)], ["y x", "- y"])
add("concatenate_two_dims", lambda a, b: jnp.concatenate([a, b], 1), [A(8, 6), A(8, 6)],
    ["x y", "x y"], ["- yx"])
add("reverse", lambda a: (a[::-1], jnp.flip(a), jnp.rot90(a)), [A(10, 6)], ["y x"])
add("roll", lambda a: (jnp.roll(a, 3, 0), jnp.roll(a, -1, 1)), [A(10, 6)], ["y x"])
add("iota", lambda a: a + jnp.arange(10.0)[:, None] + lax.broadcasted_iota(jnp.float32, (10, 6), 1),
    [A(10, 6)], ["y x"])
for dtype, length in (("bfloat16", 1000), ("float16", 9000), ("float8_e5m2", 90), ("int8", 300),
                      ("float8_e4m3fn", 90), ("complex64", 20), ("uint8", 300)):
    # Past the integers that the type holds, the sum of two numbers is not the number.
    add(f"iota_{dtype}", lambda a, d=dtype: lax.iota(d, a.size), [A(length)], ["xy"], ["xy"],
        tolerance=0)
add("eye_tri", lambda a: (a + jnp.eye(10, 6), jnp.tril(a), jnp.triu(a, 1)), [A(10, 6)], ["y x"])
add("constants", lambda a: a + np.arange(60, dtype=np.float32).reshape(10, 6), [A(10, 6)], ["y x"])
add("transpose", lambda a: (a.T @ a, a.T), [A(8, 12)], ["x y"], [None, "x y"])
add("transpose_3d", lambda a: (a.transpose(2, 0, 1), a.swapaxes(0, 2)), [A(5, 6, 7)], ["x - y"])
add("reshape", lambda a: (a.reshape(4, 2, 12), a.reshape(96), a.reshape(8, 3, 4)), [A(8, 12)],
    ["xy -"])
add("reshape_minor", lambda a: (a.reshape(24, 4).sum(1), a.reshape(-1)), [A(8, 12)], ["x y"])
add("reshape_split", lambda a: (a.reshape(4, 6, 5), a.reshape(2, 3, 4, 5), a.reshape(6, 20)),
    [A(24, 5)], ["yx -"])
add("reshape_uneven", lambda a: (a.reshape(70), a.reshape(2, 5, 7), a.reshape(5, 14)), [A(10, 7)],
    ["y x"])
add("reshape_uneven_pinned", lambda a: (a.reshape(70), a.reshape(2, 5, 7), a.reshape(5, 14)),
    [A(10, 7)], ["y x"], ["yx", "- x y", "x y"])
add("reshape_ones", lambda a: (a.reshape(1, 8, 1, 12), a.reshape(8, 12, 1), a[None, :, None]),
    [A(8, 12)], ["x y"])
add("reshape_merge", lambda a: (a.reshape(6, 20), a.reshape(120), a.reshape(3, 40)),
    [A(2, 3, 4, 5)], ["x - y -"])
add("reshape_merge_minor", lambda a: (a.reshape(6, 20), a.reshape(120)), [A(2, 3, 4, 5)],
    ["- x - y"])
add("reshape_there_and_back", lambda a: jnp.sin(a.reshape(10, 14)).reshape(7, 20), [A(5, 4, 7)],
    ["x y -"])
add("size_one", lambda a, b: (a + b, a.sum(0), a @ b.T, jnp.squeeze(a), a[0]), [A(1, 6), A(1, 6)],
    ["y x", "x -"])
add("zero_size", lambda a, b: (a.sum(0), jnp.concatenate([a, b]), a @ b.T, a.reshape(3, 0),
    b[:0], a.max(1)), [A(0, 6), A(5, 6)], ["y x", "x -"])
add("smaller_than_axis", lambda a: (a.sum(0), jnp.cumsum(a, 0), a[::-1], a[1:], a @ a.T,
    a.reshape(-1)), [A(3, 2)], ["y x"])
add("tiny_flattened", lambda a: (a.sum(), a[::-1], jnp.concatenate([a, a]), a * a), [A(2)], ["xy"])
add("repeat_tile", lambda a: (jnp.repeat(a, 3, 0), jnp.tile(a, (2, 2)), jnp.kron(a, a)), [A(5, 3)],
    ["y x"])
add("one_hot", lambda i: jax.nn.one_hot(i, 10), [I(10, 7)], ["y"])
add("diagonal", lambda a: (jnp.diag(a), jnp.trace(a), jnp.diagflat(a[0])), [A(6, 6)], ["y x"])

# ---- grids ---------------------------------------------------------------------------------------

add("cube", lambda a, b: (a @ b, a.sum((0, 1)), a.reshape(-1, 6)), [A(4, 5, 6), A(6, 7)],
    ["x y z", "z y"], grid=CUBE)
add("cube_orders", lambda a: (a.T, a + 1, a.reshape(4, 2, 3), a[1:7]), [A(8, 3)], ["zxy -"],
    ["- yz", "xz y", None, "y zx"], grid=CUBE)
add("cube_uneven", lambda a, b: jnp.einsum("abc,cd->adb", a, b), [A(3, 5, 7), A(7, 3)],
    ["x yz -", "zy x"], ["z x y"], grid=CUBE)
add("unit_axis", lambda a, b: (a @ b, a.sum(0), a[::-1]), [A(7, 6), A(6, 5)], ["ax b", "x a"],
    grid=Grid("mesh", (("a", 1), ("x", 4), ("b", 1))))
add("three", lambda a, b: (a @ b, a.sum(0), a.reshape(-1)), [A(7, 6), A(6, 5)], ["x y", "y x"],
    grid=Grid("mesh", (("x", 3), ("y", 2))))
SIX = Grid("mesh", (("x", 6),))
add("cut_by_2_and_by_3", lambda a: (a.reshape(2, 24) * 2, a.reshape(3, 16) * 3), [A(6, 8)], ["x -"],
    grid=SIX)
add("cut_by_2_and_by_3_sums", lambda a: (a.reshape(2, 6, 4).sum(1), jnp.sin(a.reshape(3, 4, 4)).sum(
    1)), [A(12, 4)], ["x -"], grid=SIX)
add("one_device", lambda a, b: (a @ b, a.sum(0)), [A(7, 6), A(6, 5)], ["x -", "- x"],
    grid=Grid("mesh", (("x", 1),)))
add("two_axes_one_dim", lambda a, b: (a @ b, a.T, a[1:], jnp.cumsum(a, 0)), [A(16, 8), A(8, 24)],
    ["yx -", "- xy"], ["xy -", "- xy", None, None])
# fmt: on


LARGE = [
    "concatenate", "cube_orders", "dot_scattered_uneven", "iota", "pad", "reduce", "reverse",
    "slice", "softmax",
]  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_positions_of_64_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on dimensions of more than 2**31 elements, which no test can hold."""
    monkeypatch.setattr(local_builder, "LARGEST_I32", 1)
    module = table[name].run()
    assert any("i64>" in str(value.type) for op in module.walk() for value in op.results)


def test_a_sum_is_scaled_before_it_is_reduced() -> None:
    """By ordinary constants and by arguments: one all-reduce, after the scaling."""
    for fn in (lambda a, b, s: (a @ b) / 3 * 2, lambda a, b, s: (a @ b) / s):
        args = [np.ones((8, 16), np.float32), np.ones((16, 4), np.float32), np.float32(3)]
        module = spmd_module(fn, args, GRID, [spec("- y"), spec("y -"), spec("")])
        names = [op.name for op in module.walk()]
        assert names.index("stablehlo.divide") < names.index("stablehlo.all_reduce")
        assert names.count("stablehlo.all_reduce") == 1


@table.parametrize
def test_equals_unpartitioned(case: Case) -> None:
    case.run()
