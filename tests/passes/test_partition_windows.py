"""Partitioned programs give what unpartitioned ones give: convolutions, pooling, windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .cases import CUBE, Case, Cases

# fmt: off
table = Cases()
add, A = table.add, table.normal


def conv(
    strides: tuple[int, ...] = (1, 1), padding: Any = "SAME", layout: Any = None, **kwargs: Any
) -> Callable[[Any, Any], Any]:
    numbers = layout or ("NHWC", "HWIO", "NHWC")
    return lambda x, w: lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=numbers, **kwargs
    )


def grad(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return jax.grad(lambda x, w: jnp.sum(jnp.sin(function(x, w))), (0, 1))


def conv_case(
    name: str,
    function: Callable[[Any, Any], Any],
    x: tuple[int, ...],
    w: tuple[int, ...],
    shardings: list[str | None],
    **kwargs: Any,
) -> None:
    """The convolution and both its gradients, in one program."""

    def both(x: Any, w: Any) -> Any:
        return function(x, w), *grad(function)(x, w)

    add(name, both, [A(*x), A(*w) * 0.5], shardings, tolerance=1e-4, **kwargs)


IMAGE, KERNEL = (4, 8, 8, 4), (3, 3, 4, 8)

conv_case("conv", conv(), IMAGE, KERNEL, ["x y - -", None])
conv_case("conv_batch", conv(), (10, 8, 8, 4), KERNEL, ["xy - - -", None])
conv_case("conv_batch_stride", conv((2, 2)), (10, 16, 16, 4), KERNEL, ["xy - - -", None])
conv_case("conv_both_spatial", conv(), (2, 8, 8, 3), (3, 3, 3, 4), ["- y x -", None])
conv_case("conv_spatial_uneven", conv(), (2, 7, 9, 3), (3, 3, 3, 4), ["- y x -", None])
conv_case("conv_spatial_small", conv(), (2, 5, 3, 3), (3, 3, 3, 4), ["- y x -", None])
conv_case("conv_valid", conv(padding="VALID"), (2, 11, 8, 3), (4, 3, 3, 4), ["x y - -", None])
conv_case("conv_stride", conv((2, 2)), (4, 16, 16, 4), KERNEL, ["x y - -", None])
conv_case("conv_stride_uneven", conv((2, 3)), (2, 15, 11, 4), KERNEL, ["- y x -", None])
conv_case("conv_large_kernel", conv(), (2, 8, 8, 3), (7, 7, 3, 4), ["x y - -", None])
conv_case("conv_patches", conv((4, 4), "VALID"), (4, 16, 16, 3), (4, 4, 3, 8), ["x y - -", None])
conv_case("conv_asymmetric", conv(padding=((0, 3), (2, -1))), (2, 8, 8, 3), (3, 3, 3, 4),
    ["x y - -", None])
conv_case("conv_dilated", conv(rhs_dilation=(2, 1)), (2, 9, 8, 3), (3, 3, 3, 4), ["x y - -", None])
conv_case("conv_transposed", conv(padding=((1, 2), (1, 2)), lhs_dilation=(2, 2)), (2, 6, 5, 3),
    (3, 3, 3, 4), ["x y - -", None])
add("conv_transpose_op", lambda x, w: jax.nn.relu(lax.conv_transpose(x, w, (2, 2), "SAME")),
    [A(4, 7, 6, 4), A(3, 3, 4, 5)], ["x y - -", None])
conv_case("conv_features", conv(padding="VALID"), (4, 9, 9, 8), (3, 3, 8, 8),
    ["x - - y", "- - y x"])
conv_case("conv_out_features", conv(), IMAGE, (3, 3, 4, 8), ["x - - -", "- - - y"])
conv_case("conv_features_uneven", conv(), (2, 5, 5, 6), (3, 3, 6, 7), ["x - - y", "- - y x"])
conv_case("conv_groups", conv(feature_group_count=4), (4, 8, 8, 8), (3, 3, 2, 8),
    ["x - - y", None])
conv_case("conv_groups_out", conv(feature_group_count=2), (4, 8, 8, 8), (3, 3, 4, 8),
    ["y - - x", "- - - x"])
conv_case("conv_groups_fewer_than_parts", conv(feature_group_count=2), (4, 8, 8, 8), (3, 3, 4, 8),
    ["x - - y", "- - - y"])
conv_case("conv_depthwise", conv(feature_group_count=8), (4, 8, 8, 8), (3, 3, 1, 8),
    ["x y - -", None])
conv_case("conv_depthwise_features", conv(feature_group_count=8), (4, 6, 6, 8), (3, 3, 1, 16),
    ["x - - y", "- - - y"])
conv_case("conv_groups_uneven", conv(feature_group_count=3), (4, 6, 6, 9), (3, 3, 3, 6),
    ["x - - y", None])
conv_case("conv_batch_groups", conv(batch_group_count=4), (8, 6, 6, 4), (3, 3, 4, 8),
    ["y - - x", None])
conv_case("conv_batch_groups_out", conv(batch_group_count=2), (8, 6, 6, 4), (3, 3, 4, 8),
    ["x - - -", "- - - y"])
conv_case("conv_nchw", conv(layout=("NCHW", "OIHW", "NCHW")), (4, 4, 8, 8), (8, 4, 3, 3),
    ["x - y -", None])
conv_case("conv_1d", conv((1,), layout=("NWC", "WIO", "NWC")), (4, 13, 4), (3, 4, 5),
    ["x y -", None])
conv_case("conv_1d_causal", conv((1,), ((3, 0),), layout=("NWC", "WIO", "NWC")), (4, 13, 4),
    (4, 4, 5), ["- xy -", None])
conv_case("conv_3d", conv((1, 1, 1), layout=("NDHWC", "DHWIO", "NDHWC")), (2, 4, 5, 4, 2),
    (3, 3, 3, 2, 3), ["x y - z -", None], grid=CUBE)
conv_case("conv_kernel_split", conv(), (4, 8, 8, 4), (3, 3, 4, 8), ["- - - -", "x - - y"])

# The gradient of the weights alone, of an input and an output's gradient that lie in parts.


def weights_case(
    name: str,
    function: Callable[[Any, Any], Any],
    x: tuple[int, ...],
    w: tuple[int, ...],
    shardings: list[str | None],
    **kwargs: Any,
) -> None:
    shape = jax.eval_shape(function, A(*x), A(*w)).shape

    def gradient(x: Any, g: Any) -> Any:
        return jax.grad(lambda w: jnp.sum(function(x, w) * g))(jnp.zeros(w))

    add(name, gradient, [A(*x), A(*shape)], shardings, tolerance=1e-4, **kwargs)


weights_case("weights", conv(), IMAGE, KERNEL, ["- x y -", "- x y -"])
weights_case("weights_pointwise_uneven", conv(), (2, 7, 9, 3), (1, 1, 3, 4), ["- y x -"] * 2)
weights_case("weights_uneven", conv(), (2, 13, 9, 3), (3, 5, 3, 4), ["- y x -"] * 2)
weights_case("weights_two_axes", conv(), (2, 13, 5, 3), (3, 3, 3, 4), ["- xy - -"] * 2)
weights_case("weights_small", conv(), (2, 3, 5, 3), (2, 2, 3, 4), ["- xy - -"] * 2)
weights_case("weights_differ", conv(), (2, 16, 8, 3), (3, 3, 3, 4), ["- xy - -", "- x - y"])
weights_case("weights_valid", conv(padding="VALID"), (2, 13, 9, 3), (4, 3, 3, 4), ["- y x -"] * 2)
weights_case("weights_stride_uneven", conv((2, 3)), (2, 14, 11, 3), (3, 2, 3, 4), ["- y x -"] * 2)
weights_case("weights_patches_uneven", conv((2, 2), "VALID"), (2, 14, 9, 3), (2, 2, 3, 4),
    ["- y x -"] * 2)
weights_case("weights_dilated", conv(rhs_dilation=(3, 2)), (2, 14, 11, 3), (3, 2, 3, 4),
    ["- y x -"] * 2)
weights_case("weights_transposed", conv(padding=((1, 2), (1, 2)), lhs_dilation=(2, 3)),
    (2, 7, 5, 3), (3, 3, 3, 4), ["- y x -"] * 2)
weights_case("weights_depthwise", conv(feature_group_count=6), (2, 9, 8, 6), (3, 3, 1, 6),
    ["- y x -"] * 2)
weights_case("weights_batch_groups", conv(batch_group_count=2), (4, 9, 8, 3), (3, 3, 3, 4),
    ["- y x -"] * 2)
weights_case("weights_split", conv(), (4, 16, 8, 3), (3, 3, 3, 8), ["- y - -"] * 2,
    results=["- - - y"])
weights_case("weights_batch_too", conv(), (5, 11, 8, 3), (3, 3, 3, 8), ["x y - -"] * 2)
add("windows_and_offsets", conv(padding=((6, 6), (0, 0))), [A(2, 13, 8, 3), A(11, 3, 3, 4)],
    ["- - - -", "x - - -"], ["- y - -"])

# ---- pieces of split dimensions ------------------------------------------------------------------

for size in (16, 13, 5):
    add(f"roll_{size}", lambda a: tuple(jnp.roll(a, shift, 0) for shift in (1, 3, -4, 9, 16)),
        [A(size, 3)], ["xy -"])
add("roll_both", lambda a: jnp.roll(a, (1, -2), (1, 2)), [A(3, 11, 7)], ["- y x"])
add("roll_elsewhere", lambda a: jnp.roll(a, 3, 0), [A(13, 8)], ["y x"], ["x y"])
add("roll_used_twice", lambda a: (lambda b: jnp.concatenate([b, a[:-3]]) @ b.T)(a[-3:]),
    [A(13, 8)], ["y -"])
add("roll_in_loop", lambda a: lax.fori_loop(0, 3, lambda i, b: jnp.roll(b, 2, 0) + a[i], a),
    [A(14, 3)], ["y -"])
add("wrap", lambda a: jnp.pad(a, ((2, 3), (1, 1)), "wrap"), [A(13, 8)], ["y x"])
add("wrap_reduced", lambda a: jnp.sum(jnp.pad(a, ((5, 2), (0, 0)), "wrap") ** 2, 0), [A(10, 3)],
    ["yx -"])
add("reflect", lambda a: jnp.pad(a, ((2, 3), (0, 0)), "reflect"), [A(13, 8)], ["y x"])
add("shift_tokens", lambda a: jnp.concatenate([jnp.zeros((2, 1, 3)), a[:, :-1]], 1) + a,
    [A(2, 14, 3)], ["- xy -"])


def split_case(parts: int, size: int) -> None:
    """Equal chunks of a product, as of fused layers, and their gradient."""

    def chunks(a: Any, b: Any) -> Any:
        return sum((i + 1) * jnp.tanh(part) for i, part in enumerate(jnp.split(a @ b, parts, 1)))

    args = [A(6, size), A(4, 6)]
    add(f"split_{parts}_{size}", lambda b, a: (chunks(a, b), jax.grad(lambda b: jnp.sum(
        chunks(a, b) ** 2))(b)), args, ["- y", "x -"], [None, "- y"], tolerance=1e-4)


split_case(2, 32)
split_case(2, 26)
split_case(3, 24)
split_case(3, 39)
split_case(5, 40)
split_case(4, 4)
add("slices_unaligned", lambda a: (a[3:12] * a[4:13], a[1:9:2], a[11:2:-3]), [A(13, 3)], ["xy -"])
add("concatenate_four", lambda a, b: jnp.concatenate([a[2:9], b, a[:5], b[1:2]]),
    [A(13, 3), A(6, 3)], ["y -", "x -"], ["yx -"])
add("concatenate_three_ways", lambda a, b: jnp.concatenate([a[2:9], b, a[9:]]),
    [A(13, 8), A(6, 8)], ["xy -", "- y"], ["y x"])

# ---- pooling -------------------------------------------------------------------------------------


def pool(window: tuple[int, ...], strides: tuple[int, ...], padding: Any) -> Callable[[Any], Any]:
    return lambda x: lax.reduce_window(x, -np.inf, lax.max, window, strides, padding)


def pool_case(name: str, function: Callable[[Any], Any], shape: tuple[int, ...], at: str) -> None:
    def both(x: Any) -> Any:
        return function(x), jax.grad(lambda x: jnp.sum(jnp.sin(function(x))))(x)

    add(name, both, [A(*shape)], [at])


def mean_pool(x: Any) -> Any:
    return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 2, 1, 1), "SAME")


pool_case("max_pool", pool((1, 2, 2, 1), (1, 2, 2, 1), "VALID"), (4, 8, 8, 4), "x y - -")
pool_case("max_pool_batch", pool((1, 3, 3, 1), (1, 2, 2, 1), "SAME"), (10, 8, 8, 4), "xy - - -")
pool_case("max_pool_overlap", pool((1, 3, 3, 1), (1, 2, 2, 1), "SAME"), (4, 8, 8, 4), "x y - -")
pool_case("max_pool_uneven", pool((1, 3, 2, 1), (1, 1, 2, 1), "SAME"), (3, 7, 9, 3), "x y - -")
pool_case("max_pool_space", pool((1, 3, 3, 1), (1, 2, 2, 1), "SAME"), (2, 19, 7, 3), "- xy - -")
pool_case("max_pool_border", pool((1, 5, 3, 1), (1, 1, 2, 1), ((0, 0), (3, 2), (0, 2), (0, 0))),
    (2, 9, 7, 3), "- y x -")
pool_case("max_pool_ones", pool((1, 1, 2, 1), (1, 3, 2, 1), "VALID"), (2, 16, 8, 3), "- y x -")
pool_case("max_pool_features", pool((1, 2, 2, 1), (1, 2, 2, 1), "VALID"), (4, 8, 8, 6), "x - - y")
pool_case("mean_pool", mean_pool, (4, 8, 7, 4), "x y - -")
pool_case("mean_pool_batch", mean_pool, (10, 8, 7, 4), "xy - - -")
add("windows_of_sums", lambda x: (lax.reduce_window(x, 0.0, lax.add, (4, 1), (1, 1), "SAME"),
    lax.reduce_window(x, 1.0, lax.mul, (3, 2), (3, 1), "VALID"), lax.reduce_window(
    x, np.inf, lax.min, (3, 2), (1, 1), ((2, 2), (0, 1)), base_dilation=(2, 1),
    window_dilation=(1, 2))), [A(10, 6)], ["y x"])
add("windows_variadic", lambda a, b: lax.reduce_window((a, b), (np.float32(0), np.float32(0)),
    lambda x, y: (x[0] + y[0], x[1] + y[1]), (3, 1), (1, 1), "SAME"), [A(10, 6), A(10, 6)],
    ["y x", "x y"])
add("resize", lambda x: (jax.image.resize(x, (4, 12, 12, 3), "nearest"), jax.image.resize(
    x, (4, 4, 4, 3), "linear")), [A(4, 6, 6, 3)], ["x y - -"])
add("patches", lambda x: lax.conv_general_dilated_patches(x, (2, 2), (2, 2), "VALID"),
    [A(4, 3, 8, 8)], ["x - y -"])
add("batch_norm", lambda x: (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5),
    [A(10, 5, 6, 4)], ["y x - -"])
# fmt: on


@table.parametrize
def test_equals_unpartitioned(case: Case) -> None:
    case.run()
