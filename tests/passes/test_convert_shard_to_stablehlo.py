"""convert-shard-to-stablehlo: each collective runs on 8 virtual devices and equals NumPy's."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from autopar.dialects import make_context
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.sharding import AxisRef, Grid
from autopar.passes.partition.convert_shard_to_stablehlo import convert_shard_to_stablehlo

GRID = Grid("mesh", (("x", 2), ("y", 4)))
HEAD = 'shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}\n'
Arrays = list[np.ndarray[Any, Any]]


def parse(text: str) -> ModuleOp:
    module = Parser(make_context(), text).parse_module()
    module.verify()
    return module


def program(op: str, operand: str, result: str) -> str:
    return (
        f"{HEAD}func.func public @main(%x: {operand}) -> {result} {{\n"
        f"  {op}\n  return %r : {result}\n}}\n"
    )


def run(module: ModuleOp, inputs: Arrays) -> Arrays:
    """Runs a per-device program on 8 devices, `inputs[d]` on device d."""
    jax = pytest.importorskip("jax")
    from jax._src import compiler
    from jax._src.lib import _jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from autopar.lowering.exporter import export_module

    devices = jax.devices()
    if len(devices) < 8:
        pytest.skip("needs 8 devices")
    devices = devices[:8]
    native = export_module(module)
    options = compiler.get_compile_options(8, 1, np.arange(8).reshape(8, 1))
    executable = devices[0].client.compile_and_load(
        native, _jax.DeviceList(tuple(devices)), options
    )
    sharding = NamedSharding(Mesh(np.array(devices), ("d",)), PartitionSpec("d"))
    whole = np.concatenate([np.atleast_1d(array) for array in inputs])
    argument = jax.device_put(whole, sharding)
    outputs = executable.execute_sharded([argument]).disassemble_into_single_device_arrays()
    return [np.asarray(array) for array in outputs[0]]


def groups(axes: list[int]) -> list[list[int]]:
    return GRID.groups([AxisRef(GRID.axis_names[axis]) for axis in axes])


def per_group(axes: list[int], of: Callable[[Arrays, int], np.ndarray[Any, Any]]):
    """A NumPy collective: `of(inputs of the group in its order, place in the group)`."""

    def apply(inputs: Arrays) -> Arrays:
        found: list[Any] = [None] * 8
        for group in groups(axes):
            for place, device in enumerate(group):
                found[device] = of([inputs[d] for d in group], place)
        return found

    return apply


def part(array: np.ndarray[Any, Any], dim: int, count: int, index: int) -> np.ndarray[Any, Any]:
    return np.split(array, count, dim)[index]


def permuted(pairs: dict[int, int]) -> Callable[[Arrays, int], np.ndarray[Any, Any]]:
    sources = {target: source for source, target in pairs.items()}
    return lambda g, i: g[sources[i]] if i in sources else np.zeros_like(g[i])


T = "tensor<4x8xf32>"
CASES: list[tuple[str, str, list[int], Callable[[Arrays, int], np.ndarray[Any, Any]]]] = [
    (
        f"shard.all_gather %x on @mesh grid_axes = [1] gather_axis = 1 : {T} -> tensor<4x32xf32>",
        "tensor<4x32xf32>",
        [1],
        lambda g, i: np.concatenate(g, 1),
    ),
    (
        f"shard.all_gather %x on @mesh grid_axes = [1, 0] gather_axis = 0 : {T} -> "
        "tensor<32x8xf32>",
        "tensor<32x8xf32>",
        [1, 0],
        lambda g, i: np.concatenate(g, 0),
    ),
    (
        f"shard.all_slice %x on @mesh grid_axes = [1] slice_axis = 1 : {T} -> tensor<4x2xf32>",
        "tensor<4x2xf32>",
        [1],
        lambda g, i: part(g[i], 1, 4, i),
    ),
    (
        f"shard.all_slice %x on @mesh grid_axes = [1, 0] slice_axis = 1 : {T} -> tensor<4x1xf32>",
        "tensor<4x1xf32>",
        [1, 0],
        lambda g, i: part(g[i], 1, 8, i),
    ),
    (
        f"shard.all_slice %x on @mesh grid_axes = [0] slice_axis = 0 : {T} -> tensor<2x8xf32>",
        "tensor<2x8xf32>",
        [0],
        lambda g, i: part(g[i], 0, 2, i),
    ),
    *(
        (
            f"shard.all_reduce %x on @mesh grid_axes = [{axes}] reduction = {kind} : {T} -> {T}",
            T,
            [int(axis) for axis in axes.split(", ")],
            (lambda f: lambda g, i: reduce(f, g))(function),
        )
        for kind, function, axes in (
            ("sum", np.add, "0"),
            ("max", np.maximum, "1"),
            ("min", np.minimum, "0, 1"),
            ("product", np.multiply, "1"),
        )
    ),
    (
        f"shard.all_reduce %x on @mesh grid_axes = [1] reduction = average : {T} -> {T}",
        T,
        [1],
        lambda g, i: sum(g[1:], g[0]) / 4,
    ),
    (
        f"shard.reduce_scatter %x on @mesh grid_axes = [1] scatter_axis = 1 : {T} -> "
        "tensor<4x2xf32>",
        "tensor<4x2xf32>",
        [1],
        lambda g, i: part(sum(g[1:], g[0]), 1, 4, i),
    ),
    (
        f"shard.reduce_scatter %x on @mesh grid_axes = [1, 0] reduction = max scatter_axis = 1 : "
        f"{T} -> tensor<4x1xf32>",
        "tensor<4x1xf32>",
        [1, 0],
        lambda g, i: part(reduce(np.maximum, g), 1, 8, i),
    ),
    (
        f"shard.all_to_all %x on @mesh grid_axes = [1] split_axis = 0 concat_axis = 1 : {T} -> "
        "tensor<1x32xf32>",
        "tensor<1x32xf32>",
        [1],
        lambda g, i: np.concatenate([part(a, 0, 4, i) for a in g], 1),
    ),
    (
        f"shard.all_to_all %x on @mesh grid_axes = [0] split_axis = 1 concat_axis = 1 : {T} -> {T}",
        T,
        [0],
        lambda g, i: np.concatenate([part(a, 1, 2, i) for a in g], 1),
    ),
    (
        f"shard.shift %x on @mesh grid_axes = [1] shift_axis = 1 offset = 1 rotate : {T} -> {T}",
        T,
        [1],
        lambda g, i: g[(i - 1) % 4],
    ),
    (
        f"shard.shift %x on @mesh grid_axes = [1] shift_axis = 1 offset = -2 : {T} -> {T}",
        T,
        [1],
        lambda g, i: g[i + 2] if i + 2 < 4 else np.zeros_like(g[i]),
    ),
    (
        f"shard.shift %x on @mesh grid_axes = [0, 1] shift_axis = 0 offset = 1 rotate : {T} -> {T}",
        T,
        [0, 1],
        lambda g, i: g[(i + 4) % 8],
    ),
    (
        f"shard.permute %x on @mesh grid_axes = [1] pairs = [[0, 1], [1, 0], [3, 2]] : {T} -> {T}",
        T,
        [1],
        permuted({0: 1, 1: 0, 3: 2}),
    ),
    (
        f"shard.permute %x on @mesh grid_axes = [1, 0] pairs = [[0, 7], [5, 0]] : {T} -> {T}",
        T,
        [1, 0],
        permuted({0: 7, 5: 0}),
    ),
    (
        f"shard.permute %x on @mesh grid_axes = [0] pairs = [] : {T} -> {T}",
        T,
        [0],
        lambda g, i: np.zeros_like(g[i]),
    ),
    (
        f"shard.broadcast %x on @mesh grid_axes = [1] root = [2] : ({T}) -> {T}",
        T,
        [1],
        lambda g, i: g[2],
    ),
    (
        f"shard.scatter %x on @mesh grid_axes = [0, 1] scatter_axis = 1 root = [1, 2] : ({T}) -> "
        "tensor<4x1xf32>",
        "tensor<4x1xf32>",
        [0, 1],
        lambda g, i: part(g[6], 1, 8, i),
    ),
    (
        f"shard.gather %x on @mesh grid_axes = [0] gather_axis = 0 root = [1] : ({T}) -> "
        "tensor<8x8xf32>",
        "tensor<8x8xf32>",
        [0],
        lambda g, i: np.concatenate(g, 0),
    ),
    (
        f"shard.reduce %x on @mesh grid_axes = [0] reduction = max root = [1] : ({T}) -> {T}",
        T,
        [0],
        lambda g, i: reduce(np.maximum, g),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].split(" :")[0][6:])
def test_collective_runs(
    case: tuple[str, str, list[int], Callable[[Arrays, int], np.ndarray[Any, Any]]],
) -> None:
    op, result, axes, expected = case
    module = parse(program(f"%r = {op}", T, result))
    convert_shard_to_stablehlo(module)
    module.verify()
    assert "shard." not in str(module)
    inputs: Arrays = list(np.random.default_rng(0).normal(size=(8, 4, 8)).astype(np.float32))
    outputs = run(module, inputs)
    for output, wanted in zip(outputs, per_group(axes, expected)(inputs), strict=True):
        np.testing.assert_allclose(output, wanted, rtol=1e-6)


def _two_collectives(name: str, axes: str, combine: bool, reduction: str = "") -> ModuleOp:
    """One along dimension 0 of %x, one along dimension 1 of -%x: their results, flat."""
    parts = {"[0]": 2, "[1]": 4, "[0, 1]": 8}[axes]
    mark = " {autopar.combine = 0 : i64}" if combine else ""
    body = f'%n = "stablehlo.negate"(%x) : ({WIDE}) -> {WIDE}\n'
    flat: list[str] = []
    for dim, operand in enumerate(("%x", "%n")):
        shape, attribute = [8, 16], ""
        if name == "all_gather":
            shape[dim] *= parts
            attribute = f"gather_axis = {dim}"
        else:
            shape[dim] //= parts
            attribute = f"{reduction} scatter_axis = {dim}"
        result = f"tensor<{shape[0]}x{shape[1]}xf32>"
        size = shape[0] * shape[1]
        body += f"%c{dim} = shard.{name} {operand} on @mesh grid_axes = {axes} {attribute}{mark}"
        body += f" : {WIDE} -> {result}\n"
        flat.append(f"tensor<{size}xf32>")
    for dim, type in enumerate(flat):
        collective = next(line for line in body.splitlines() if line.startswith(f"%c{dim}"))
        source = collective.rpartition("-> ")[2]
        body += f'%f{dim} = "stablehlo.reshape"(%c{dim}) : ({source}) -> {type}\n'
    total = f"tensor<{sum(int(t[7:-5]) for t in flat)}xf32>"
    body += '%r = "stablehlo.concatenate"(%f0, %f1) <{dimension = 0 : i64}> : '
    body += f"({', '.join(flat)}) -> {total}"
    return parse(program(body, WIDE, total))


WIDE = "tensor<8x16xf32>"


@pytest.mark.parametrize("axes", ["[0]", "[1]", "[0, 1]"])
@pytest.mark.parametrize(
    ("name", "reduction"),
    [
        ("all_gather", ""),
        ("reduce_scatter", ""),
        ("reduce_scatter", "reduction = min"),
        ("reduce_scatter", "reduction = average"),
    ],
)
def test_combined_collectives_equal_single_ones(name: str, reduction: str, axes: str) -> None:
    inputs: Arrays = list(np.random.default_rng(0).normal(size=(8, 8, 16)).astype(np.float32))
    outputs: list[Arrays] = []
    for combine in (False, True):
        module = _two_collectives(name, axes, combine, reduction)
        convert_shard_to_stablehlo(module)
        module.verify()
        separate = not combine or reduction == "reduction = average"
        assert sum(op.name == f"stablehlo.{name}" for op in module.walk()) == (2 if separate else 1)
        outputs.append(run(module, inputs))
    for alone, together in zip(*outputs, strict=True):
        np.testing.assert_allclose(alone, together, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["and", "or", "xor"])
@pytest.mark.parametrize("dtype", ["i32", "ui8", "i1"])
@pytest.mark.parametrize("scatter", [False, True])
def test_bitwise_reductions(kind: str, dtype: str, scatter: bool) -> None:
    name = "reduce_scatter" if scatter else "all_reduce"
    op = f"shard.{name} %x on @mesh grid_axes = [1] reduction = bitwise_{kind}"
    type, result = f"tensor<4x{dtype}>", f"tensor<{1 if scatter else 4}x{dtype}>"
    op += " scatter_axis = 0" if scatter else ""
    module = parse(program(f"%r = {op} : {type} -> {result}", type, result))
    convert_shard_to_stablehlo(module)
    module.verify()
    numbers = np.random.default_rng(0).integers(0, 2**31 - 1, (8, 4))
    inputs: Arrays = list(
        numbers % 3 > 0 if dtype == "i1" else numbers.astype({"i32": "i4", "ui8": "u1"}[dtype])
    )
    function = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[kind]

    def of(g: Arrays, i: int) -> np.ndarray[Any, Any]:
        whole = reduce(function, g)
        return part(whole, 0, 4, i) if scatter else whole

    np.testing.assert_array_equal(run(module, inputs), per_group([1], of)(inputs))


@pytest.mark.parametrize(
    ("ops", "expected"),
    [
        ("%i = shard.process_linear_index on @mesh : index", range(8)),
        (
            "%i = shard.process_multi_index on @mesh axes = [1] : index",
            [0, 1, 2, 3, 0, 1, 2, 3],
        ),
        ("%i, %j = shard.process_multi_index on @mesh : index, index", [0] * 4 + [1] * 4),
        ("%i = shard.grid_shape @mesh axes = [1] : index", [4] * 8),
    ],
)
def test_device_index(ops: str, expected: list[int]) -> None:
    type = "tensor<1xi32>"
    cast = "%m = arith.index_cast %i : index to i32\n%r = tensor.from_elements %m : tensor<1xi32>"
    module = parse(program(f"{ops}\n{cast}", type, type))
    convert_shard_to_stablehlo(module)
    module.verify()
    outputs = run(module, [np.zeros(1, np.int32)] * 8)
    assert [int(output[0]) for output in outputs] == list(expected)


ALL_REDUCE = f"%r = shard.all_reduce %x on @mesh grid_axes = [1] : {T} -> {T}"


def test_module_attributes_and_layouts() -> None:
    sharded = '#autopar.sharding<@mesh, [{"x", "y":(1)2}, {}], partial={sum = ["y":(2)2]}>'
    module = parse(
        f"{HEAD}func.func public @main(%x: {T} {{autopar.sharding = {sharded}, "
        "autopar.global = tensor<16x8xf32>, jax.keep = 1 : i32}, "
        "%t: !stablehlo.token) "
        f"-> ({T}, tensor<f32>, !stablehlo.token) {{\n"
        '%c = "stablehlo.constant"() {value = dense<1.0> : tensor<f32>} : () -> tensor<f32>\n'
        f"return %x, %c, %t : {T}, tensor<f32>, !stablehlo.token }}"
    )
    convert_shard_to_stablehlo(module)
    text = str(module)
    assert (
        "mhlo.num_replicas = 8 : i32, mhlo.num_partitions = 1 : i32, "
        'autopar.grid = {axes = ["x", "y"], shape = array<i64: 2, 4>}' in text
    )
    assert (
        f"%x: {T} {{jax.keep = 1 : i32, autopar.layout = {{dims = "
        '[["x", "y:(1)2"], []], global = tensor<16x8xf32>, partial = {sum = ["y:(2)2"]}}}'
    ) in text
    assert "%t: !stablehlo.token {autopar.layout = {}}" in text
    assert "tensor<f32> {autopar.layout = {dims = [], global = tensor<f32>}}" in text
    assert "shard.grid" not in text and "autopar.sharding" not in text


def test_alias_of_equal_layouts_stays() -> None:
    text = program(ALL_REDUCE, T, T).replace(
        f"%x: {T}", f"%x: {T} {{tf.aliasing_output = 0 : i32}}"
    )
    module = parse(text)
    convert_shard_to_stablehlo(module)
    assert "tf.aliasing_output = 0 : i32" in str(module)


def test_channels_are_distinct_and_follow_those_in_place() -> None:
    inner = (
        '%r = "stablehlo.all_gather"(%b) <{all_gather_dim = 0 : i64, replica_groups = '
        "dense<[[0, 1, 2, 3, 4, 5, 6, 7]]> : tensor<1x8xi64>, channel_handle = "
        "#stablehlo.channel_handle<handle = 5, type = 1>, use_global_device_ids}> : "
        f"({T}) -> tensor<32x8xf32>"
    )
    body = ALL_REDUCE.replace("%r", "%a") + "\n" + ALL_REDUCE.replace("%r", "%b") + "\n" + inner
    module = parse(program(body, T, "tensor<32x8xf32>"))
    convert_shard_to_stablehlo(module)
    text = str(module)
    handles = [part.split(",")[0] for part in text.split("channel_handle<handle = ")[1:]]
    assert handles == ["6", "7", "5"]
    assert text.count("use_global_device_ids") == 3


@pytest.mark.parametrize(
    ("form", "index"), [("replica", "replica_id"), ("partition", "partition_id")]
)
def test_forms(form: Any, index: str) -> None:
    body = (
        f"%a = shard.all_to_all %x on @mesh grid_axes = [0] split_axis = 1 concat_axis = 1 : {T} "
        f"-> {T}\n"
        f"%b = shard.permute %a on @mesh grid_axes = [0] pairs = [[0, 1]] : {T} -> {T}\n"
        '%p = "stablehlo.partition_id"() : () -> tensor<ui32>\n'
        f"%r = shard.all_slice %b on @mesh grid_axes = [0] slice_axis = 0 : {T} -> tensor<2x8xf32>"
    )
    module = parse(program(body, T, "tensor<2x8xf32>"))
    convert_shard_to_stablehlo(module, form)
    text = str(module)
    assert text.count(f'"stablehlo.{index}"') == 2 and text.count("_id") == 2
    assert text.count("channel_handle = ") == (2 if form == "partition" else 0)
    assert ("mhlo.num_partitions = 8" in text) == (form == "partition")


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (
            "%0 = tosa.matmul %m, %m : (tensor<1x4x4xf32>, tensor<1x4x4xf32>) -> tensor<1x4x4xf32>",
            "'tosa.matmul' op is not StableHLO, and autopar does not convert it: "
            "`mlir-opt --tosa-to-linalg-named` converts it",
        ),
        (
            "%s = shard.sharding @mesh split_axes = [[0]] : !shard.sharding",
            "'shard.sharding' op is left: run shard-partition before",
        ),
        (
            "%0 = autopar.reshard %x {sharding = #autopar.sharding<@mesh, [{}, {}]>} : "
            "tensor<4x8xf32>",
            "'autopar.reshard' op is left: run shard-partition before",
        ),
        (
            "%0 = shard.send %x on @mesh grid_axes = [1] destination = [1] : (tensor<4x8xf32>) -> "
            "tensor<4x8xf32>",
            "'shard.send' op has no form in StableHLO",
        ),
        (
            "%0 = shard.all_reduce %x on @mesh grid_axes = [1] reduction = generic : "
            "tensor<4x8xf32> -> tensor<4x8xf32>",
            "reduction generic has no form in StableHLO",
        ),
        (
            "%0 = shard.all_reduce %x on @mesh grid_axes = [1] : tensor<4x8xf32> -> "
            "tensor<4x8xf64>",
            "changes the element type (f32 to f64)",
        ),
        (
            '%l = shard.process_linear_index on @mesh : index\n"x.y"(%l) : (index) -> ()',
            "uses a device index",
        ),
    ],
)
def test_errors(op: str, message: str) -> None:
    text = f"{HEAD}func.func @main(%x: tensor<4x8xf32>, %m: tensor<1x4x4xf32>) {{\n{op}\nreturn\n}}"
    with pytest.raises(DiagnosticError) as error:
        convert_shard_to_stablehlo(parse(text))
    assert message in str(error.value)


def test_needs_a_grid() -> None:
    with pytest.raises(DiagnosticError) as error:
        convert_shard_to_stablehlo(parse("func.func @main() { return }"))
    assert "needs a partitioned module, with its shard.grid" in str(error.value)
