"""Partitioned programs give what unpartitioned ones give: control flow, calls, the rest."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning

from .cases import CUBE, Case, Cases

# fmt: off
table = Cases()
add, A, I = table.add, table.normal, table.integers  # noqa: E741

# ---- loops ---------------------------------------------------------------------------------------

add("fori", lambda a: lax.fori_loop(0, 5, lambda i, c: jnp.sin(c) @ c.T @ c, a), [A(8, 4) * 0.1],
    ["x y"])
add("while_data", lambda a: lax.while_loop(lambda c: c.sum() < 40, lambda c: c * 1.5, a),
    [np.abs(A(9, 6))], ["y x"])
add("while_many", lambda a, b: lax.while_loop(lambda c: c[0] < 4, lambda c: (c[0] + 1, c[1] @ c[2],
    c[2].T), (0, a, b)), [A(6, 6), A(6, 6) * 0.3], ["x y", "y -"])
add("while_pinned", lambda a: lax.fori_loop(0, 3, lambda i, c: c * 2 + i, a), [A(9, 6)], ["y x"],
    ["- xy"])
add("fori_index", lambda a: lax.fori_loop(0, 9, lambda i, c: c.at[i].set(c[i - 1] * 2), a),
    [A(9, 6)], ["y x"])
add("fori_dynamic_bound", lambda a, n: lax.fori_loop(0, n, lambda i, c: jnp.cos(c), a), [A(9, 6),
    np.int32(4)], ["y x", None])
add("fori_sum_of_dots", lambda a, b: lax.fori_loop(0, 3, lambda i, c: c + a @ b, jnp.zeros((8, 8))),
    [A(8, 16), A(16, 8)], ["- y", "y -"])
add("fori_scaled_sum", lambda a, b: lax.fori_loop(0, 3, lambda i, c: 0.5 * c + a @ b, jnp.ones((
    8, 8))), [A(8, 16), A(16, 8)], ["- y", "y -"])
add("fori_read_sum", lambda a, b: lax.fori_loop(0, 3, lambda i, c: (c[0] + a @ b, c[0].max()), (
    jnp.zeros((8, 8)), 0.0)), [A(8, 16), A(16, 8)], ["- y", "y -"])
# ---- sums of sums --------------------------------------------------------------------------------

add("norm", lambda a, b, c, d: jnp.sqrt((a**2).sum() + (b**2).sum() + (c**2).sum() + (d**2).sum()),
    [A(8, 16), A(7, 9), A(16), A(3)], ["x y", "- y", "x", "-"])
add("norm_of_numbers", lambda a, b: a.sum() + (b.sum() + 3) + b.max(), [I(9, 8, 16), I(9, 7, 9)],
    ["x -", "- y"])
add("swap", lambda a, b: lax.fori_loop(0, 3, lambda i, c: (c[1], c[0] * 2), (a, b)), [A(9, 6), A(
    9, 6)], ["y x", "x y"])


def layers(ws: Any, x: Any) -> Any:
    def body(h: Any, w: Any) -> Any:
        h = jnp.tanh(h @ w)
        return h, h.sum()

    return lax.scan(body, x, ws)


def layers_remat(ws: Any, x: Any) -> Any:
    @jax.checkpoint
    def body(h: Any, w: Any) -> Any:
        return jnp.tanh(h @ w) + h, None

    return lax.scan(body, x, ws)[0]


def accumulated(ws: Any, xs: Any) -> Any:
    def body(g: Any, x: Any) -> Any:
        return jax.tree.map(jnp.add, g, jax.grad(lambda w: jnp.sum(jnp.sin(x @ w)))(ws)), None

    return lax.scan(body, jnp.zeros_like(ws), xs)[0]


def nested(x: Any, w: Any) -> Any:
    def inner(h: Any, row: Any) -> Any:
        return h * 0.5 + row, h.max()

    def outer(h: Any, w: Any) -> Any:
        h, tops = lax.scan(inner, h.sum(0), jnp.tanh(h @ w))
        return x * h, tops

    return lax.scan(outer, x, w)


add("scan", layers, [A(6, 8, 8), A(16, 8)], ["- - y", "x -"])
add("scan_stacked_split", layers, [A(8, 8, 8), A(16, 8)], ["y - -", "x -"])
add("scan_uneven", layers, [A(3, 7, 7), A(9, 7)], ["- y -", "xy -"])
add("scan_grad", lambda ws, x: jax.grad(lambda ws, x: layers(ws, x)[1].sum())(ws, x), [A(6, 8, 8),
    A(16, 8)], ["- - y", "x -"])
add("scan_remat_grad", lambda ws, x: jax.grad(lambda ws, x: jnp.sum(layers_remat(ws, x) ** 2))(
    ws, x), [A(4, 8, 8) * 0.3, A(16, 8)], ["- - y", "x -"], tolerance=1e-4)
add("scan_accumulate", accumulated, [A(8, 6), A(5, 16, 8)], ["- -", "- xy -"])
add("scan_accumulate_zero", accumulated, [A(8, 6), A(5, 16, 8)], ["- -", "- xy -"], ["xy -"])
add("scan_nested", nested, [A(6, 6), A(3, 6, 6)], ["y x", "- x y"])
add("scan_reverse", lambda a: lax.scan(lambda c, x: (c + x, c * x), jnp.zeros(6), a, reverse=True),
    [A(9, 6)], ["y x"])
add("scan_unroll", lambda a: lax.scan(lambda c, x: (c + x, c * x), jnp.zeros(6), a, unroll=3),
    [A(9, 6)], ["y x"])
add("map", lambda a: lax.map(lambda r: jnp.sin(r) @ r, a), [A(9, 6)], ["y x"])
add("map_batched", lambda a: lax.map(lambda r: jnp.sin(r) @ r, a, batch_size=4), [A(9, 6)],
    ["y x"])
add("associative_scan", lambda a: lax.associative_scan(jnp.add, a), [A(9, 6)], ["y x"])
add("scan_cube", layers, [A(4, 6, 6), A(8, 6)], ["- y z", "x -"], grid=CUBE)

# ---- branches ------------------------------------------------------------------------------------

add("cond", lambda p, a: lax.cond(p.sum() > 0, lambda a: a * 2, jnp.sin, a), [A(3), A(8, 6)],
    [None, "x y"])
add("cond_collective", lambda a: lax.cond(a.sum() > 0, lambda a: a @ a.T,
    lambda a: a[:, :1] + a * a[:, 1:].sum(), a), [A(9, 9)], ["x y"])
add("switch", lambda i, a: lax.switch(i, [lambda a: a * 2, jnp.sin, lambda a: a[::-1]], a), [
    np.int32(2), A(9, 6)], [None, "y x"])
add("cond_grad", lambda p, a: jax.grad(lambda a: lax.cond(p > 0, lambda a: jnp.sum(a**2),
    lambda a: jnp.sum(jnp.sin(a)), a))(a), [np.float32(1), A(9, 6)], [None, "y x"])
add("cond_in_scan", lambda a: lax.scan(lambda c, x: lax.cond(x.sum() > 0, lambda c, x: (c + x,
    c.sum()), lambda c, x: (c - x, x.max()), c, x), jnp.zeros(6), a), [A(9, 6)],
    ["y x"])
add("cond_results_pinned", lambda p, a: lax.cond(p > 0, lambda a: (a, a.sum(0)), lambda a: (a * 2,
    a[0]), a), [np.float32(1), A(9, 6)], [None, "y x"], ["x y", "xy"])
add("select_n", lambda i, a, b: lax.select_n(i > 1, a, b), [I(4, 9, 6), A(9, 6), A(9, 6)],
    ["y x", "x y", None])

# ---- calls ---------------------------------------------------------------------------------------

add("jit_helper", lambda a: jax.jit(lambda x: jnp.sin(x) @ x.T)(a) + jax.jit(jnp.cos)(a.sum()),
    [A(9, 6)], ["y x"])
add("checkpoint_grad", lambda a, w: jax.grad(lambda w: jnp.sum(jax.checkpoint(lambda w: jnp.tanh(
    jnp.tanh(a @ w) @ w.T))(w)))(w), [A(16, 8), A(8, 8)], ["xy -", "- -"])
add("barrier", lambda a, b: lax.optimization_barrier((a * 2, b @ b.T)), [A(9, 6), A(6, 6)],
    ["y x", "x y"])
add("barrier_partial", lambda a, b: lax.optimization_barrier((a @ b, a.sum(1))), [A(9, 6), A(6, 6)],
    ["- y", "y -"])


@jax.custom_vjp
def _scaled(x: Any) -> Any:
    return jnp.sin(x)


_scaled.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x) * 2,))
add("custom_vjp", jax.grad(lambda a: jnp.sum(_scaled(a))), [A(9, 6)], ["y x"])


@custom_partitioning
def _own_rule(x: Any) -> Any:
    return jnp.fft.fft(x).real


def _refuse(*args: Any) -> Any:
    raise AssertionError("XLA's partitioner has no part in this")


_own_rule.def_partition(
    partition=_refuse,
    infer_sharding_from_operands=_refuse,
    sharding_rule="i j -> i j",
    need_replication_factors=("j",),
)
add("custom_partitioning", lambda a: _own_rule(a) + 1, [A(9, 6)], ["y x"])

# ---- random bits ---------------------------------------------------------------------------------


def draws(k: Any, a: Any) -> Any:
    key = jax.random.wrap_key_data(k)
    one, two, three = jax.random.split(key, 3)
    return (
        a + jax.random.normal(one, a.shape),
        jax.random.bernoulli(two, 0.3, a.shape),
        jax.random.permutation(three, a.shape[0]),
        jax.random.uniform(key, (a.shape[1],), jnp.float32, -1, 1),
    )


KEY = np.array([1, 2], np.uint32)
add("threefry", draws, [KEY, A(12, 8)], [None, "y x"])
add("threefry_uneven", draws, [KEY, A(11, 5)], [None, "y x"])
add("threefry_flattened", draws, [KEY, A(11, 5)], [None, "- xy"])
add("dropout", lambda k, a: jnp.where(jax.random.bernoulli(jax.random.wrap_key_data(k), 0.5,
    a.shape), a / 0.5, 0), [KEY, A(16, 6)], ["-", "xy -"])
add("categorical", lambda k, a: jax.random.categorical(jax.random.wrap_key_data(k), a), [KEY,
    A(11, 5)], [None, "y x"])
add("keys_a_row", lambda k, a: jax.vmap(lambda k, r: r + jax.random.normal(
    jax.random.wrap_key_data(k), r.shape))(k, a), [
    np.arange(18, dtype=np.uint32).reshape(9, 2), A(9, 6)], ["y -", "y x"])
add("rbg", lambda k, a: a + jax.random.uniform(jax.random.wrap_key_data(k, impl="rbg"), a.shape),
    [np.array([1, 2, 3, 4], np.uint32), A(11, 5)], [None, "y x"])

# ---- decompositions ------------------------------------------------------------------------------


def positive(a: Any) -> Any:
    return a @ a.swapaxes(-1, -2) + 4 * jnp.eye(a.shape[-1])


add("cholesky", lambda a: jnp.linalg.cholesky(positive(a)), [A(8, 3, 3)], ["xy - -"])
add("cholesky_uneven", lambda a: jnp.linalg.cholesky(positive(a)), [A(5, 2, 3, 3)], ["y x - -"])
add("qr", lambda a: jnp.abs(jnp.linalg.qr(a)[1]), [A(5, 4, 3)], ["y - -"], tolerance=1e-4)
add("eigh", lambda a: jnp.linalg.eigh(positive(a))[0], [A(5, 3, 3)], ["y - x"], tolerance=1e-4)
add("svd", lambda a: jnp.linalg.svd(a, compute_uv=False), [A(5, 4, 3)], ["xy - -"], tolerance=1e-4)
add("solve", lambda a, b: (jnp.linalg.solve(positive(a), b), jnp.linalg.inv(positive(a)),
    jnp.linalg.det(positive(a))), [A(6, 3, 3), A(6, 3, 2)], ["y - -", "x - -"],
    tolerance=2e-4)
add("solve_triangular", lambda a, b: jax.scipy.linalg.solve_triangular(positive(a), b, lower=True),
    [A(6, 6), A(6, 5)], ["x y", "y x"], tolerance=1e-4)

# What a call makes of the dimensions of a matrix it makes whole, wherever its result is to lie.
S = positive(A(3, 8, 8))
for name, call in {
    "eigh": lambda s: jnp.linalg.eigh(s)[0],
    "svd": lambda s: jnp.linalg.svd(s, compute_uv=False),
    "eig": lambda s: jnp.sort(jnp.abs(jnp.linalg.eigvals(s))),
    "lu_pivots": lambda s: lax.linalg.lu(s)[1],
    "tridiagonal": lambda s: lax.linalg.tridiagonal(s)[1],
    "householder": lambda s: lax.linalg.householder_product(s, s[:, 0, :]),
    "triangular_solve": lambda s: lax.linalg.triangular_solve(s, s, left_side=True, lower=True),
    "approx_max_k": lambda s: lax.approx_max_k(s, 8)[0],
    "top_k": lambda s: lax.top_k(s, 8)[0],
}.items():
    rank = len(jax.eval_shape(call, S).shape)
    for where in ("xy", "y"):
        add(f"wanted_{name}_{where}", call, [S], [None], [" ".join(["-"] * (rank - 1) + [where])],
            tolerance=1e-3)
add("solve_minus", lambda p, x: p - jax.scipy.linalg.solve_triangular(positive(x.T), p, lower=True),
    [A(8, 16), A(8, 8)], ["- xy", "xy -"], ["- xy"], tolerance=1e-3)

# ---- jax programs --------------------------------------------------------------------------------


def attention(q: Any, k: Any, v: Any) -> Any:
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2
    mask = jnp.tril(jnp.ones((q.shape[1], k.shape[1]), bool))
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


QKV = [A(4, 6, 8, 5), A(4, 6, 8, 5), A(4, 6, 8, 5)]
add("attention", attention, QKV, ["x - y -"] * 3)
add("attention_sequence", attention, QKV, ["x y - -"] * 3, ["x y - -"])
add("attention_grad", jax.grad(lambda *a: jnp.sum(jnp.sin(attention(*a))), (0, 1, 2)), QKV,
    ["x - y -", None, "- x - -"])
add("dot_product_attention", jax.nn.dot_product_attention, QKV, ["x - y -"] * 3)
add("vmap_grad", lambda w, x: jax.vmap(jax.grad(lambda w, x: jnp.sum(jnp.tanh(x @ w))), (None, 0))(
    w, x), [A(6, 5), A(9, 6)], ["x -", "y -"])
add("jvp_hvp", lambda a, v: jax.jvp(jax.grad(lambda a: jnp.sum(jnp.tanh(a @ a.T))), (a,), (v,)),
    [A(6, 5), A(6, 5)], ["x y", "y -"])
add("jacobian", jax.jacrev(lambda a: jnp.tanh(a @ a)), [A(4, 4)], ["x y"])
add("interp", lambda x, a, b: jnp.interp(x, jnp.sort(a), b), [A(9), A(12), A(12)], ["y", "x", "y"])
add("searchsorted_unique", lambda a, v: (jnp.searchsorted(jnp.sort(a), v), jnp.unique(
    jnp.round(a), size=5)), [A(12), A(9)], ["y", "x"])
add("polyfit_convolve", lambda a, v: (jnp.convolve(a, v), jnp.correlate(a, v)), [A(12), A(5)],
    ["y", "x"])
add("fft", lambda a: (jnp.fft.fft2(a).real, jnp.fft.irfft(jnp.fft.rfft(a, axis=1), axis=1)),
    [A(8, 6)], ["y x"])
# fmt: on


@table.parametrize
def test_equals_unpartitioned(case: Case) -> None:
    case.run()
