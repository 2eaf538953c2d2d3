"""Partitioned programs give what unpartitioned ones give: ops that JAX hides on CPU.

JAX lowers decompositions to custom_calls of LAPACK there, and other ops not at all; these are
written in StableHLO.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from jax import lax

from tests.oracle import check_text

from .cases import GRID, spec

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RANDOM.normal(size=shape).astype(np.float32)


def regular(*shape: int) -> Array:
    """Matrices with a large diagonal: systems that are well conditioned."""
    return normal(*shape) + 6 * np.eye(shape[-1], dtype=np.float32)


def positive(*shape: int) -> Array:
    a = normal(*shape)
    return a @ np.swapaxes(a, -1, -2) + 4 * np.eye(shape[-1], dtype=np.float32)


def type_of(array: Array) -> str:
    """The tensor type of an array of floats, integers or bool."""
    kind = {"f": "f", "i": "i", "u": "ui", "b": "i"}[array.dtype.kind]
    bits = 1 if array.dtype.kind == "b" else 8 * array.dtype.itemsize
    return f"tensor<{'x'.join([*map(str, array.shape), f'{kind}{bits}'])}>"


def op(name: str, attributes: str, args: list[Array], result: Array) -> str:
    """A module of one op in generic form; of `result` only shape and dtype count."""
    types = [type_of(array) for array in (*args, result)]
    names = [f"%{i}" for i in range(len(args))]
    arguments = ", ".join(f"{n}: {t}" for n, t in zip(names, types, strict=False))
    return f"""
    func.func @main({arguments}) -> {types[-1]} {{
      %r = "stablehlo.{name}"({", ".join(names)}) <{{{attributes}}}>
          : ({", ".join(types[:-1])}) -> {types[-1]}
      return %r : {types[-1]}
    }}"""


@pytest.mark.parametrize("sharded", ["y x", "x y", "xy -", "- xy"])
@pytest.mark.parametrize("transpose", ["NO_TRANSPOSE", "TRANSPOSE", "ADJOINT"])
@pytest.mark.parametrize("left", [True, False])
def test_triangular_solve(left: bool, transpose: str, sharded: str) -> None:
    a, b = regular(6, 6), normal(6, 5) if left else normal(5, 6)
    attributes = (
        f"left_side = {str(left).lower()}, lower = true, unit_diagonal = false, "
        f"transpose_a = #stablehlo<transpose {transpose}>"
    )
    text = op("triangular_solve", attributes, [a, b], b)
    module = check_text(text, [a, b], GRID, [spec("x y"), spec(sharded)], rtol=1e-4)
    free = sharded.split()[1 if left else 0]
    (solve,) = [op for op in module.walk() if op.name == "stablehlo.triangular_solve"]
    size = solve.results[0].type.get_shape()[1 if left else 0]
    parts = {"x": 2, "y": 4, "xy": 8, "-": 1}[free]
    assert size == -(-5 // parts), "independent systems are split"


@pytest.mark.parametrize("sharded", ["y - -", "x y -", "- x y"])
def test_triangular_solve_of_batches(sharded: str) -> None:
    a, b = regular(6, 3, 3), normal(6, 3, 2)
    attributes = (
        "left_side = true, lower = false, unit_diagonal = true, "
        "transpose_a = #stablehlo<transpose NO_TRANSPOSE>"
    )
    text = op("triangular_solve", attributes, [a, b], b)
    check_text(text, [a, b], GRID, [spec(sharded), spec("y - x")], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sharded", ["xy - -", "y x -", "- x y"])
def test_cholesky(sharded: str) -> None:
    a = positive(5, 3, 3)
    check_text(op("cholesky", "lower = true", [a], a), [a], GRID, [spec(sharded)], rtol=1e-4)


@pytest.mark.parametrize("sharded", ["xy - -", "y x -", "- - x"])
def test_tridiagonal_solve(sharded: str) -> None:
    """A custom_call as a program from elsewhere has it, without JAX's `sdy.sharding_rule`.

    What JAX's lowering of the call says stands here by hand: the version of the interface, and the
    layouts, since LAPACK wants the right hand sides by columns.
    """
    diagonal, b = normal(5, 6), normal(5, 6, 2)
    rows, columns = "dense<[1, 0]> : tensor<2xindex>", "dense<[1, 2, 0]> : tensor<3xindex>"
    layouts = ", ".join([rows, rows, rows, columns])
    aliases = ", ".join(
        f"#stablehlo.output_operand_alias<output_tuple_indices = [{i}], operand_index = {i}, "
        "operand_tuple_indices = []>"
        for i in range(4)
    )
    d, x = type_of(diagonal), type_of(b)
    text = f"""
    func.func @main(%l: {d}, %d: {d}, %u: {d}, %b: {x}) -> {x} {{
      %r:5 = stablehlo.custom_call @lapack_sgtsv_ffi(%l, %d, %u, %b) {{
          api_version = 4 : i32, mhlo.backend_config = {{}},
          operand_layouts = [{layouts}], output_operand_aliases = [{aliases}],
          result_layouts = [{layouts}, dense<0> : tensor<1xindex>]}}
          : ({d}, {d}, {d}, {x}) -> ({d}, {d}, {d}, {x}, tensor<5xi32>)
      return %r#3 : {x}
    }}"""
    args = [normal(5, 6), diagonal + 6, normal(5, 6), b]
    jax.jit(lax.linalg.tridiagonal_solve).lower(*args)  # finds LAPACK, which the call needs
    module = check_text(text, args, GRID, [spec("x y"), None, None, spec(sharded)], rtol=1e-4)
    (call,) = [op for op in module.walk() if op.name == "stablehlo.custom_call"]
    parts = {"x": 2, "y": 4, "xy": 8, "-": 1}[sharded.split()[0]]
    batch = call.results[3].type.get_shape()[0]
    assert batch == -(-5 // max(parts, 2)), "independent systems are split"


@pytest.mark.parametrize("sharded", ["y x - -", "- - x y"])
def test_batch_norm_inference(sharded: str) -> None:
    x, row = normal(6, 5, 4, 3), np.abs(normal(3)) + 1
    attributes = "epsilon = 1.0e-3 : f32, feature_index = 3 : i64"
    args = [x, row, row + 1, row + 2, row + 3]
    text = op("batch_norm_inference", attributes, args, x)
    check_text(text, args, GRID, [spec(sharded), *[spec("x")] * 4], rtol=1e-4)


def test_broadcast_and_map() -> None:
    a = normal(7, 5)
    for dtype in (np.float32, np.int32, np.uint8, np.bool_):
        b = (10 * np.abs(a)).astype(dtype)
        text = op("broadcast", "broadcast_sizes = array<i64: 3>", [b], np.stack([b] * 3))
        check_text(text, [b], GRID, [spec("y x")])
    check_text(
        """
        func.func @main(%a: tensor<7x5xf32>) -> tensor<7x5xf32> {
          %0 = "stablehlo.map"(%a, %a) <{dimensions = array<i64: 0, 1>}> ({
          ^bb0(%x: tensor<f32>, %y: tensor<f32>):
            %s = stablehlo.multiply %x, %y : tensor<f32>
            stablehlo.return %s : tensor<f32>
          }) : (tensor<7x5xf32>, tensor<7x5xf32>) -> tensor<7x5xf32>
          return %0 : tensor<7x5xf32>
        }""",
        [a],
        GRID,
        [spec("x y")],
    )


def test_random_numbers() -> None:
    """Between 1 and 1 + 1e-6: which they are makes no difference."""
    a = normal(7, 5)
    check_text(
        """
        func.func @main(%a: tensor<7x5xf32>) -> tensor<7x5xf32> {
          %low = stablehlo.constant dense<1.0> : tensor<f32>
          %high = stablehlo.constant dense<1.000001> : tensor<f32>
          %shape = stablehlo.constant dense<[7, 5]> : tensor<2xi64>
          %0 = stablehlo.rng %low, %high, %shape, distribution = UNIFORM
              : (tensor<f32>, tensor<f32>, tensor<2xi64>) -> tensor<7x5xf32>
          %1 = stablehlo.add %a, %0 : tensor<7x5xf32>
          return %1 : tensor<7x5xf32>
        }""",
        [a],
        GRID,
        [spec("x y")],
    )


@pytest.mark.parametrize("size", [GRID.num_devices, GRID.num_devices - 1])
@pytest.mark.parametrize("combiner", ["add", "maximum", "multiply"])
def test_reduction_that_begins_with_a_value(combiner: str, size: int) -> None:
    """Each device has one element of the dimension, or none; the initial value counts once."""
    a, init = normal(4, size), np.float32(2.5)
    check_text(
        f"""
        func.func @main(%a: tensor<4x{size}xf32>, %init: tensor<f32>) -> tensor<4xf32> {{
          %0 = stablehlo.reduce(%a init: %init) applies stablehlo.{combiner}
              across dimensions = [1] : (tensor<4x{size}xf32>, tensor<f32>) -> tensor<4xf32>
          return %0 : tensor<4xf32>
        }}""",
        [a, init],
        GRID,
        [spec("- xy"), spec("")],
    )


@pytest.mark.parametrize(("size", "taps"), [(16, 16), (13, 11), (5, 7)])
@pytest.mark.parametrize("sharded", ["- xy -", "- y x"])
def test_convolution_with_a_reversed_kernel(size: int, taps: int, sharded: str) -> None:
    """The kernel's parts stand in the other order."""
    a, kernel = normal(2, size, 4), normal(4, taps, 3)
    windows = size + 4 - taps + 1
    check_text(
        f"""
        func.func @main(%a: {type_of(a)}, %k: {type_of(kernel)}) -> tensor<2x{windows}x3xf32> {{
          %0 = stablehlo.convolution(%a, %k) dim_numbers = [b, 0, f]x[i, 0, o]->[b, 0, f],
              window = {{pad = [[2, 2]], reverse = [true]}}
              {{batch_group_count = 1 : i64, feature_group_count = 1 : i64}}
              : ({type_of(a)}, {type_of(kernel)}) -> tensor<2x{windows}x3xf32>
          return %0 : tensor<2x{windows}x3xf32>
        }}""",
        [a, kernel],
        GRID,
        [spec(sharded), spec(sharded.replace("x", "-") if sharded == "- y x" else sharded)],
    )


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding"),
    [
        (16, 2, 2, (0, 0)),
        (17, 3, 2, (0, 0)),
        (19, 5, 1, (0, 0)),
        (14, 2, 3, (0, 0)),
        (22, 1, 4, (0, 0)),
        (13, 3, 2, (1, 1)),
        (5, 2, 1, (0, 0)),
    ],
)
@pytest.mark.parametrize("sharded", ["xy -", "x y"])
@pytest.mark.parametrize(("select", "scatter"), [("GE", "add"), ("LT", "maximum")])
def test_select_and_scatter(
    size: int,
    window: int,
    stride: int,
    padding: tuple[int, int],
    sharded: str,
    select: str,
    scatter: str,
) -> None:
    """Of equal elements, the one that is selected is that of one device."""
    a = RANDOM.integers(0, 3, size=(size, 8)).astype(np.float32)
    a[: size // 2, ::2] = -np.inf
    source = normal((size + sum(padding) - window) // stride + 1, 7)
    low, high = padding
    check_text(
        f"""
        func.func @main(%a: {type_of(a)}, %s: {type_of(source)}) -> {type_of(a)} {{
          %init = stablehlo.constant dense<0.25> : tensor<f32>
          %0 = "stablehlo.select_and_scatter"(%a, %s, %init) <{{
              padding = dense<[[{low}, {high}], [0, 0]]> : tensor<2x2xi64>,
              window_dimensions = array<i64: {window}, 2>,
              window_strides = array<i64: {stride}, 1>}}>
          ({{
          ^bb0(%x: tensor<f32>, %y: tensor<f32>):
            %1 = stablehlo.compare {select}, %x, %y : (tensor<f32>, tensor<f32>) -> tensor<i1>
            stablehlo.return %1 : tensor<i1>
          }}, {{
          ^bb0(%x: tensor<f32>, %y: tensor<f32>):
            %1 = stablehlo.{scatter} %x, %y : tensor<f32>
            stablehlo.return %1 : tensor<f32>
          }}) : ({type_of(a)}, {type_of(source)}, tensor<f32>) -> {type_of(a)}
          return %0 : {type_of(a)}
        }}""",
        [a, source],
        GRID,
        [spec(sharded), spec(sharded)],
    )


@pytest.mark.parametrize("compare", ["GE", "GT"])
@pytest.mark.parametrize("dims", [[0, 1], [1], [0]])
@pytest.mark.parametrize("sharded", ["xy -", "- yx", "x y", "- y"])
def test_choice_by_order(compare: str, dims: list[int], sharded: str) -> None:
    """Nothing but the order of the elements says which of equal ones is chosen."""
    a = RANDOM.integers(0, 3, size=(7, 13)).astype(np.float32)
    marks = np.arange(a.size, dtype=np.int32).reshape(a.shape)
    rest = "".join(f"{size}x" for dim, size in enumerate(a.shape) if dim not in dims)
    results = f"tensor<{rest}f32>, tensor<{rest}i32>"
    check_text(
        f"""
        func.func @main(%a: {type_of(a)}, %m: {type_of(marks)}) -> ({results}) {{
          %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
          %none = stablehlo.constant dense<-1> : tensor<i32>
          %0:2 = "stablehlo.reduce"(%a, %m, %low, %none) <{{dimensions = array<i64: {dims[0]}
              {"".join(f", {dim}" for dim in dims[1:])}>}}> ({{
          ^bb0(%x: tensor<f32>, %i: tensor<i32>, %y: tensor<f32>, %j: tensor<i32>):
            %1 = stablehlo.compare {compare}, %x, %y : (tensor<f32>, tensor<f32>) -> tensor<i1>
            %2 = stablehlo.select %1, %x, %y : tensor<i1>, tensor<f32>
            %3 = stablehlo.select %1, %i, %j : tensor<i1>, tensor<i32>
            stablehlo.return %2, %3 : tensor<f32>, tensor<i32>
          }}) : ({type_of(a)}, {type_of(marks)}, tensor<f32>, tensor<i32>) -> ({results})
          return %0#0, %0#1 : {results}
        }}""",
        [a, marks],
        GRID,
        [spec(sharded), spec(sharded)],
    )


def test_reduction_of_two_sums_that_begin_with_values() -> None:
    """Not a choice: what the devices begin with would count more than once."""
    a = normal(6, 8)
    check_text(
        f"""
        func.func @main(%a: {type_of(a)}) -> (tensor<6xf32>, tensor<6xf32>) {{
          %one = stablehlo.constant dense<1.0> : tensor<f32>
          %0:2 = "stablehlo.reduce"(%a, %a, %one, %one) <{{dimensions = array<i64: 1>}}> ({{
          ^bb0(%x: tensor<f32>, %i: tensor<f32>, %y: tensor<f32>, %j: tensor<f32>):
            %1 = stablehlo.add %x, %y : tensor<f32>
            %2 = stablehlo.multiply %i, %j : tensor<f32>
            stablehlo.return %1, %2 : tensor<f32>, tensor<f32>
          }}) : ({type_of(a)}, {type_of(a)}, tensor<f32>, tensor<f32>)
              -> (tensor<6xf32>, tensor<6xf32>)
          return %0#0, %0#1 : tensor<6xf32>, tensor<6xf32>
        }}""",
        [a],
        GRID,
        [spec("- xy")],
    )
