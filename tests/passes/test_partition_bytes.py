"""Partitioned programs move no more bytes than they have to, and give what unpartitioned ones give.

The bytes are those of XLA's partitioner for the same program, or fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr
from xdsl.ir import Operation

from autopar.dialects.sharding import Grid
from autopar.dialects.tensors import num_bytes
from autopar.passes.cost.report import RING_BYTES

from .cases import Case

LINE = Grid("mesh", (("x", 8),))
RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype(np.float32)


def moved(
    fn: Callable[..., Any],
    args: Sequence[Any],
    shardings: Sequence[str | None],
    results: Sequence[str | None] | None = None,
    grid: Grid = LINE,
) -> list[tuple[str, float]]:
    """Runs a case, and gives the bytes that each of its collectives moves."""
    module = Case("", fn, args, shardings, results, grid, 1e-4).run()
    return [
        (op.name.removeprefix("stablehlo."), RING_BYTES[op.name](*_size(op)))
        for op in module.walk()
        if op.name in RING_BYTES
    ]


def _size(op: Operation) -> tuple[float, int]:
    """The bytes that a device puts in, and the devices of a group."""
    groups = op.properties.get("replica_groups")
    shape = groups.get_shape() if isinstance(groups, DenseIntOrFPElementsAttr) else ()
    return sum(num_bytes(v.type) for v in op.operands), shape[-1] if shape else 1


def weight_gradient(
    kernel: tuple[int, ...], strides: tuple[int, int], padding: Any
) -> Callable[[Any, Any], Any]:
    """Of a convolution's input and the gradient of its output."""

    def gradient(x: Any, g: Any) -> Any:
        def product(w: Any) -> Any:
            numbers = ("NHWC", "HWIO", "NHWC")
            y = lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=numbers)
            return jnp.sum(y * g)

        return jax.grad(product)(jnp.zeros(kernel))

    return gradient


@pytest.mark.parametrize(
    ("kernel", "strides", "halo"),
    [
        ((1, 1, 4, 8), (1, 1), []),
        ((2, 2, 4, 8), (2, 2), []),
        ((3, 3, 4, 8), (1, 1), [512, 512]),
        ((3, 3, 4, 8), (2, 2), [512]),
    ],
)
def test_weight_gradient_of_a_split_image(
    kernel: tuple[int, ...], strides: tuple[int, int], halo: list[float]
) -> None:
    """Each device meets its part of the output's gradient with its part of the input: the rows
    that windows reach over the border are all that moves before the sum."""
    x, g = normal(2, 32, 16, 4), normal(2, 32 // strides[0], 16 // strides[1], 8)
    total = 2 * 7 / 8 * 4 * np.prod(kernel)
    uses = moved(
        weight_gradient(kernel, strides, "SAME"), [x, g], ["- x - -", "- x - -"], ["- - - -"]
    )
    assert uses == [*(("collective_permute", size) for size in halo), ("all_reduce", total)]


@pytest.mark.parametrize(
    ("size", "stride", "rows"),
    [(2, 2, []), (3, 2, [256, 1024, 512]), (3, 1, [512, 512, 1024, 1024])],
)
def test_gradient_of_max_pooling(size: int, stride: int, rows: list[float]) -> None:
    """The elements that the windows over a border see, and the gradients of these windows: none
    where windows end with the blocks. Not the shift that padding makes."""

    def pool(x: Any) -> Any:
        window, strides = (1, size, size, 1), (1, stride, stride, 1)
        return lax.reduce_window(x, -np.inf, lax.max, window, strides, "SAME")

    def gradient(x: Any, g: Any) -> Any:
        return jax.grad(lambda x: jnp.sum(pool(x) * g))(x)

    x = normal(2, 32, 16, 4)
    assert moved(gradient, [x, pool(x)], ["- x - -"] * 2, ["- x - -"]) == [
        ("collective_permute", bytes) for bytes in rows
    ]


def test_argmax_of_a_split_dimension() -> None:
    """Every device chooses, and all hear of it; the numbers of the elements never move."""
    moves = moved(lambda a: jnp.argmax(a, 1), [normal(16, 64)], ["- x"], ["-"])
    assert moves == [("all_gather", 7 * 16 * 4)] * 2


def test_numbers_of_elements_are_made_anew() -> None:
    moves = moved(lambda a: jnp.argsort(a, 1), [normal(16, 64)], ["- x"], ["- x"])
    assert moves == [("all_gather", 7 * 16 * 8 * 4)]


@pytest.mark.parametrize(("shift", "rows"), [(1, [1]), (3, [3]), (9, [7, 1]), (-8, [8]), (64, [])])
def test_roll_is_one_shift(shift: int, rows: list[int]) -> None:
    moves = moved(lambda a: jnp.roll(a, shift, 0), [normal(64, 16)], ["x -"], ["x -"])
    assert moves == [("collective_permute", count * 16 * 4) for count in rows]


@pytest.mark.parametrize(("parts", "size", "permutes"), [(2, 64, 4), (3, 96, 8)])
def test_chunks_of_a_split_dimension(parts: int, size: int, permutes: int) -> None:
    """A permute carries what a device keeps of a chunk, and no more."""

    def chunks(a: Any) -> Any:
        return sum(jnp.tanh(part) for part in jnp.split(a, parts, 1))

    moves = moved(chunks, [normal(8, size)], ["- x"], ["- x"])
    assert moves == [("collective_permute", 8 * size // parts // 8 * 4)] * permutes


def test_pieces_of_two_operands_travel_together() -> None:
    args = [normal(8, 64), normal(8, 64)]
    grid = Grid("mesh", (("x", 4),))
    moves = moved(lambda a, b: jnp.concatenate([a, b], 1), args, ["- x"] * 2, ["- x"], grid)
    assert moves == [("collective_permute", 8 * 16 * 4)] * 2
