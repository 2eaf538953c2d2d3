"""Partitioned programs give what unpartitioned ones give: gather, scatter, dynamic slices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from autopar.dialects.constants import constant_array
from autopar.passes.partition import local_builder
from tests.oracle import spmd_module

from .cases import CUBE, GRID, Case, Cases, spec

# fmt: off
table = Cases()
add, A, I = table.add, table.normal, table.integers  # noqa: E741
S = np.int32


def gather(
    sizes: tuple[int, ...],
    mode: Any = "clip",
    *,
    offset: tuple[int, ...] = (),
    collapsed: tuple[int, ...] = (),
    index_map: tuple[int, ...],
    batching: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
) -> Callable[[Any, Any], Any]:
    numbers = lax.GatherDimensionNumbers(offset, collapsed, index_map, *batching)
    return lambda a, i: lax.gather(a, i, numbers, sizes, mode=mode)


def scatter(
    function: Any,
    mode: Any = None,
    *,
    window: tuple[int, ...] = (),
    inserted: tuple[int, ...] = (),
    index_map: tuple[int, ...],
    batching: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
) -> Callable[[Any, Any, Any], Any]:
    numbers = lax.ScatterDimensionNumbers(window, inserted, index_map, *batching)
    return lambda a, i, u: function(a, i, u, numbers, mode=mode)


# ---- gather --------------------------------------------------------------------------------------

add("look_up", lambda t, i: t[i], [A(16, 8), I(16, 4, 6)], ["y x", "- -"])
add("look_up_batch", lambda t, i: t[i], [A(15, 8), I(15, 4, 6)], ["y -", "x -"])
add("look_up_same_axis", lambda t, i: t[i], [A(15, 8), I(15, 9)], ["y -", "y"], ["y x"])
add("look_up_2d", lambda t, i: t[i], [A(15, 8), I(15, 9, 3)], ["xy -", "y x"], ["y x -"])
add("look_up_modes", lambda t, i: (jnp.take(t, i, axis=0, mode="clip"), jnp.take(
    t, i, axis=0, mode="fill"), jnp.take(t, i, axis=0, mode="wrap")), [A(15, 8),
    I(20, 4, 6, low=-18)], ["y -", "x -"])
add("look_up_minor", lambda t, i: (jnp.take(t, i, axis=1), t[:, 2]), [A(15, 9), I(9, 4, 6)],
    ["x y", "- -"])
add("look_up_int", lambda t, i: t[i], [I(99, 15, 8), I(15, 9)], ["y -", "x"])
add("look_up_bool", lambda t, i: (t > 0)[i], [A(15, 8), I(15, 9)], ["y -", "x"])
add("look_up_bf16", lambda t, i: t[i], [A(15, 8).astype(jnp.bfloat16), I(15, 9)], ["y -", "x"])
add("look_up_nan", lambda t, i: t[i], [np.where(A(15, 8) > 1, np.inf, A(15, 8)), I(15, 9)],
    ["y -", "x"])
add("look_up_uint8_index", lambda t, i: t[i], [A(15, 8), I(15, 9).astype(np.uint8)], ["y -", "x"])
add("two_indices", lambda t, i, j: t[i, j], [A(15, 9), I(15, 7), I(9, 7)], ["y x", "-", "-"])
add("two_indices_split", lambda t, i, j: t[i, :, j], [A(15, 4, 9), I(15, 7), I(9, 7)],
    ["y - x", "x", "x"])
add("two_indices_negative", lambda t, i, j: (t[i, j], t.at[i, j].get(mode="fill", fill_value=7)),
    [A(15, 9), I(20, 7, low=-20), I(12, 7, low=-12)], ["y x", "-", "-"])
add("take_along", lambda t, i: (jnp.take_along_axis(t, i, 1), jnp.take_along_axis(t, i[:, :1], 1)),
    [A(10, 9), I(9, 10, 4)], ["y -", "y -"])
add("take_along_split", lambda t, i: jnp.take_along_axis(t, i, 1), [A(10, 9), I(9, 10, 4)],
    ["y x", "x y"])
add("take_along_first", lambda t, i: jnp.take_along_axis(t, i, 0), [A(10, 9), I(10, 4, 9)],
    ["y x", "- x"])
add("gather_batching", gather((1, 1, 3), offset=(2,), collapsed=(1,), index_map=(1,), batching=(
    (0,), (0,))), [A(10, 9, 3), I(9, 10, 4, 1)], ["y - x", "y x -"])
add("gather_batching_split", gather((1, 1, 3), "fill", offset=(2,), collapsed=(1,), index_map=(1,),
    batching=((0,), (0,))), [A(10, 9, 3), I(12, 10, 4, 1, low=-3)], ["x y -", "x - -"])
add("gather_partial_window", gather((2, 3), offset=(1, 2), index_map=(0, 1)), [A(10, 9),
    np.stack([I(10, 7), I(9, 7)], 1)], ["y x", "x -"])
add("gather_partial_whole", gather((2, 9), offset=(1, 2), index_map=(0,)), [A(10, 9),
    I(12, 7, 1, low=-2)], ["y x", "- -"])
add("gather_fill_window", gather((2, 9), "fill", offset=(1, 2), index_map=(0,)), [A(10, 9),
    I(12, 7, 1, low=-2)], ["y x", "x -"])
add("gather_size_one_kept", gather((1, 9), offset=(1, 2), index_map=(0,)), [A(10, 9), I(10, 7, 1)],
    ["y x", "- -"])
add("gather_unindexed_collapsed", gather((1, 1), collapsed=(0, 1), index_map=(1,)), [A(10, 9),
    I(9, 7, 1)], ["y x", "- -"])
add("gather_permuted_map", gather((1, 1, 4), offset=(1,), collapsed=(0, 1), index_map=(1, 0)),
    [A(10, 9, 4), np.stack([I(9, 7), I(10, 7)], 1)], ["y x -", "- -"])
add("gather_offset_first", gather((1, 4), offset=(0,), collapsed=(0,), index_map=(0,)), [A(10, 4),
    I(10, 6, 7, 1)], ["y x", "x - -"])
add("gather_cube", lambda t, i: t[i], [A(15, 6), I(15, 5, 7)], ["y z", "x y"], ["x y z"],
    grid=CUBE)
add("embedding_grad", lambda t, i: jax.grad(lambda t: jnp.sum(jnp.sin(t[i])))(t), [A(16, 8),
    I(16, 8, 6)], ["y -", "x -"])
add("embedding_grad_dp", lambda t, i: jax.value_and_grad(lambda t: jnp.mean(jnp.sin(t[i]) ** 2))(t),
    [A(13, 8), I(13, 16, 6)], ["- -", "xy -"])
add("embedding_grad_zero", lambda t, i: jax.grad(lambda t: jnp.sum(jnp.sin(t[i])))(t), [A(13, 8),
    I(13, 16, 6)], ["- xy", "xy -"], ["- xy"])
add("tied_embedding", lambda t, i: jax.grad(lambda t: jnp.sum(jnp.sin(t[i] @ t.T)))(t), [A(13, 8),
    I(13, 16, 6)], ["y -", "x -"])
add("cross_entropy", lambda a, i: jax.grad(lambda a: -jnp.take_along_axis(jax.nn.log_softmax(a), i[
    :, None], 1).mean())(a), [A(10, 7), I(7, 10)], ["x y", "x"])

# ---- scatter -------------------------------------------------------------------------------------

add("add_rows", lambda t, i, u: t.at[i].add(u), [A(16, 8), I(16, 12), A(12, 8)],
    ["y x", "-", "- -"])
add("add_rows_batch", lambda t, i, u: t.at[i].add(u), [A(16, 8), I(16, 12), A(12, 8)],
    ["- -", "xy", "xy -"])
add("add_rows_both", lambda t, i, u: t.at[i].add(u), [A(15, 8), I(15, 13), A(13, 8)],
    ["y -", "x", "x -"])
add("add_rows_same", lambda t, i, u: t.at[i].add(u), [A(15, 8), I(15, 13), A(13, 8)],
    ["y -", "y", "y -"], ["xy -"])
add("reducers", lambda t, i, u: (t.at[i].max(u), t.at[i].min(u), t.at[i].mul(u)), [A(15, 8),
    I(15, 13), A(13, 8)], ["- -", "xy", "xy -"])
add("reducers_split", lambda t, i, u: (t.at[i].max(u), t.at[i].min(u), t.at[i].mul(u)), [A(15, 8),
    I(15, 13), A(13, 8)], ["y x", "x", "x -"])
add("set_rows", lambda t, i, u: t.at[i].set(u), [A(16, 8), np.arange(12, dtype=S), A(12, 8)],
    ["y x", "-", "- -"])
add("set_rows_batch", lambda t, i, u: t.at[i].set(u), [A(16, 8), np.arange(12, dtype=S)[::-1].copy(
    ), A(12, 8)], ["y x", "y", "y -"])
add("scatter_modes", lambda t, i, u: (t.at[i].add(u, mode="drop"), t.at[i].add(u, mode="clip"),
    t.at[i].add(u, mode="promise_in_bounds")), [A(15, 8), I(19, 13, low=-14), A(13, 8)],
    ["y x", "x", "x -"])
add("scatter_int", lambda t, i, u: (t.at[i].add(u), t.at[i].set(7)), [I(50, 15, 8), I(15, 13),
    I(50, 13, 8)], ["y -", "x", "x -"])
add("scatter_bool", lambda t, i: (jnp.zeros((15, 8), bool).at[i].set(True), t.at[i].max(t[:1] > 0)
    if t.dtype == bool else t), [A(15, 8), I(15, 13)], ["y -", "x"])
add("scatter_minor", lambda t, i, u: t.at[:, i].add(u), [A(15, 9), I(9, 7), A(15, 7)],
    ["x y", "-", "x -"])
add("scatter_two", lambda t, i, j, u: t.at[i, j].add(u), [A(15, 9), I(20, 7, low=-18), I(9, 7),
    A(7)], ["y x", "-", "-", "-"])
add("scatter_two_batch", lambda t, i, j, u: t.at[i, :, j].add(u), [A(15, 4, 9), I(15, 7), I(9, 7),
    A(7, 4)], ["y - x", "x", "x", "x -"])
add("scatter_batching", scatter(lax.scatter_add, window=(2,), inserted=(1,), index_map=(1,),
    batching=((0,), (0,))), [A(10, 9, 3), I(9, 10, 4, 1), A(10, 4, 3)],
    ["y - x", "y - -", "y - -"])
add("scatter_batching_split", scatter(lax.scatter_add, window=(2,), inserted=(1,), index_map=(1,),
    batching=((0,), (0,))), [A(10, 9, 3), I(12, 10, 4, 1, low=-2), A(10, 4, 3)],
    ["x y -", "x y -", "x y -"])
add("scatter_window", scatter(lax.scatter_add, window=(1, 2), index_map=(0, 1)), [A(10, 9),
    np.stack([I(12, 7, low=-2), I(9, 7)], 1), A(7, 2, 3)], ["y x", "- -", "- - -"])
add("scatter_window_batch", scatter(lax.scatter_add, window=(1, 2), index_map=(0,)), [A(10, 9),
    I(12, 7, 1, low=-2), A(7, 2, 9)], ["y x", "x -", "x - -"])
add("scatter_window_short", scatter(lax.scatter_add, window=(1, 2), index_map=(0,)), [A(10, 9),
    I(12, 7, 1, low=-2), A(7, 1, 5)], ["y x", "x -", "x - -"])
add("scatter_whole_window", scatter(lax.scatter_add, window=(0, 1), index_map=(0,)), [A(10, 9),
    np.zeros(1, S), A(10, 9)], ["y x", "-", "x y"])
add("scatter_whole_window_off", scatter(lax.scatter_add, window=(0, 1), index_map=(0,)), [A(10, 9),
    np.ones(1, S), A(10, 9)], ["y x", "-", "y x"])
add("scatter_clip_window", scatter(lax.scatter_add, lax.GatherScatterMode.CLIP, window=(1, 2),
    index_map=(0,)), [A(10, 9), I(15, 7, 1, low=-4), A(7, 2, 9)], ["y x", "x -", "x - -"])
add("scatter_cube", lambda t, i, u: t.at[i].add(u), [A(15, 6), I(15, 12), A(12, 6)],
    ["y z", "xy", "xy z"], grid=CUBE)
add("histogram", lambda i, w: (jnp.bincount(i, w, length=9), jnp.bincount(i, length=9)), [I(9, 30),
    A(30)], ["xy", "y"])
add("segment_sum", lambda a, i: (jax.ops.segment_sum(a, i, 6), jax.ops.segment_max(a, i, 6)),
    [A(14, 5), I(6, 14)], ["y x", "y"])
add("scatter_apply", lambda t, i: t.at[i].apply(jnp.sin), [A(15, 8), np.arange(12, dtype=S)],
    ["y x", "-"])

# ---- dynamic slices ------------------------------------------------------------------------------

add("dynamic_slice", lambda a, i: (lax.dynamic_slice(a, (i, 0), (3, 8)), lax.dynamic_index_in_dim(
    a, i, 0), lax.dynamic_slice(a, (i + 20, -3), (3, 5))), [A(16, 8), S(5)], ["y x", None])
add("dynamic_slice_uneven", lambda a, i: (lax.dynamic_slice(a, (i, 0), (3, 8)), a[i], a[:, i - 8]),
    [A(15, 8), S(13)], ["y x", None])
add("dynamic_slice_pinned", lambda a, i: lax.dynamic_slice(a, (i, 1), (9, 5)), [A(15, 8), S(3)],
    ["y x", None], ["x y"])
add("update_rows", lambda a, b, i: lax.dynamic_update_slice(a, b, (i, 0)), [A(16, 8), A(3, 8),
    S(5)], ["y x", None, None])
add("update_block", lambda a, b, i: lax.dynamic_update_slice(a, b, (i, 1)), [A(15, 8), A(6, 3),
    S(7)], ["y x", None, None])
add("update_clamped", lambda a, b, i: (lax.dynamic_update_slice(a, b, (i, 9)),
    lax.dynamic_update_slice(a, b, (-i, -9))), [A(15, 8), A(6, 3), S(70)], ["y x", "x y", None])
add("update_nan_padding", lambda a, b, i: lax.dynamic_update_slice(a, b, (i, 0)), [A(15, 8),
    A(7, 7), S(2)], ["y x", "y x", None])
add("update_grad", lambda a, b, i: jax.grad(lambda a, b: jnp.sum(jnp.sin(
    lax.dynamic_update_slice(a, b, (i, 1)))), (0, 1))(a, b), [A(15, 8), A(6, 3), S(7)],
    ["y x", None, None])
add("slice_grad", lambda a, i: jax.grad(lambda a: jnp.sum(jnp.sin(lax.dynamic_slice(a, (i, 1), (
    5, 6)))))(a), [A(15, 8), S(7)], ["y x", None])
add("update_partial", lambda a, b, c, i: lax.dynamic_update_slice(c, a @ b, (i, 0)), [A(3, 16),
    A(16, 8), A(12, 8), S(7)], ["- y", "y -", "x -", None])
add("cache", lambda c, k, i: jax.vmap(lambda c, k: lax.dynamic_update_slice(c, k, (i, 0)))(c, k),
    [A(8, 12, 4), A(8, 1, 4), S(7)], ["x y -", "x - -", None])
add("vmapped_starts", lambda a, i: jax.vmap(lambda a, i: lax.dynamic_slice(a, (i, 0), (3, 4)))(
    a, i), [A(8, 12, 4), I(12, 8)], ["x y -", "x"])
add("vmapped_updates", lambda a, b, i: jax.vmap(lambda a, b, i: lax.dynamic_update_slice(
    a, b, (i, 0)))(a, b, i), [A(8, 12, 4), A(8, 3, 4), I(12, 8)], ["x y -", "x - -", "x"])
# Indices of other types than i32: what is out of bounds as their own type stays so.
U = np.array([0xFFFFFFF0, 3, 2**31, 15, 63, 64], np.uint32)
for name, sharded in (("", "xy -"), ("_uneven", "y x")):
    rows = 63 if name else 64
    add(f"unsigned_look_up{name}", lambda t, i: (jnp.take(t, i, axis=0, mode="clip"), t[i], t.at[
        i].get(mode="fill", fill_value=-1)), [A(rows, 4), U], [sharded, "-"])
    add(f"unsigned_scatter{name}", lambda t, i: (t.at[i].set(2.0, mode="drop"), t.at[i].add(
        2.0, mode="drop")), [A(rows, 4), U], [sharded, "-"])
    add(f"unsigned_slices{name}", lambda a, b, i: (lax.dynamic_update_slice(a, b, (i, i)),
        lax.dynamic_slice(a, (i, i), (3, 2))), [A(rows, 4), A(3, 2), U[0]], [sharded, None, None])
add("unsigned_batching", gather((1, 1, 3), offset=(2,), collapsed=(1,), index_map=(1,), batching=(
    (0,), (0,))), [A(6, 9, 3), U[:, None, None]], ["y x -", "y - -"])
add("unsigned_pairs", gather((1, 1), collapsed=(0, 1), index_map=(1, 0)), [A(10, 9), np.stack([
    U, U[::-1]], 1)], ["y x", "- -"])
B = np.array([-128, -1, 0, 127, 100], np.int8)
add("narrow_index", lambda t, i: (gather((1,), collapsed=(0,), index_map=(0,))(t, i[:, None]),
    scatter(lax.scatter, "drop", inserted=(0,), index_map=(0,))(t, i[:, None], t[:5])),
    [A(200), B], ["xy", "-"])
# fmt: on

WIDE = np.array([2**32 + 1, 3, -(2**32) + 2, -1, 2**33], np.int64)
wide = Cases()
wide.add(
    "gather", gather((1,), collapsed=(0,), index_map=(0,)), [A(16), WIDE[:, None]], ["xy", None]
)
wide.add(
    "gather_pairs",
    gather((1, 1), collapsed=(0, 1), index_map=(0, 1)),
    [A(16, 9), np.stack([WIDE, WIDE[::-1]], 1)],
    ["xy -", None],
)
wide.add("take", lambda a, i: jnp.take(a, i, mode="clip"), [A(15), WIDE], ["xy", "-"])
wide.add(
    "scatter",
    scatter(lax.scatter, "drop", inserted=(0,), index_map=(0,)),
    [A(16), WIDE[:, None], A(5)],
    ["xy", None, None],
)
wide.add(
    "scatter_pairs",
    scatter(lax.scatter_add, "drop", inserted=(0, 1), index_map=(0, 1)),
    [A(16, 9), np.stack([WIDE, WIDE[::-1]], 1), A(5)],
    ["x y", None, None],
)
for start in (2**33, -(2**33)):
    wide.add(
        f"slices_{start}",
        lambda a, b, i: (
            lax.dynamic_update_slice(a, b, (i, i)),
            lax.dynamic_slice(a, (i, i), (3, 2)),
        ),
        [A(16, 9), A(3, 9), np.int64(start)],
        ["xy -", None, None],
    )


@wide.parametrize
def test_indices_of_64_bits(case: Case) -> None:
    with jax.enable_x64(True):
        case.run()


LARGE = [
    "look_up_minor", "two_indices_negative", "gather_permuted_map", "gather_unindexed_collapsed",
    "scatter_apply", "update_block", "update_clamped", "unsigned_slices_uneven", "narrow_index",
]  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_positions_of_64_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on dimensions of more than 2**31 elements, which no test can hold."""
    monkeypatch.setattr(local_builder, "LARGEST_I32", 2)
    module = table[name].run()
    assert any("xi64>" in str(v.type) for op in module.walk() for v in op.results)


def test_what_a_look_up_masks_keeps_the_sign_of_zero() -> None:
    """The parts are summed up, and x + -0.0 is x. (XLA:CPU's all-reduce starts from +0.0.)"""
    module = spmd_module(lambda t, i: t[i], [A(16, 8), I(16, 4)], GRID, [spec("y -"), spec("-")])
    fills = {
        float(constant_array(op.properties["value"]).reshape(-1)[0])
        for op in module.walk()
        if op.name == "stablehlo.constant" and str(op.results[0].type) == "tensor<4x8xf32>"
    }
    assert [math.copysign(1, fill) for fill in fills if fill == 0] == [-1.0]


@table.parametrize
def test_equals_unpartitioned(case: Case) -> None:
    case.run()
