"""The shard dialect: what upstream prints and reads, verifiers, grids."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from xdsl.context import Context
from xdsl.dialects import builtin, func
from xdsl.parser import Parser
from xdsl.utils.exceptions import VerifyException

from autopar.dialects.shard import AllGatherOp, Shard, find_grid, make_collective, make_grid_op
from autopar.dialects.sharding import Grid
from autopar.lowering.parse import parse_module

MLIR_OPT = shutil.which("mlir-opt-22") or shutil.which("mlir-opt")

OPS = """
%s = shard.sharding @grid split_axes = [[0], [1]] : !shard.sharding
%h = shard.sharding @grid split_axes = [[0]] halo_sizes = [1, 1] : !shard.sharding
%o = shard.sharding @grid split_axes = [[0]] sharded_dims_offsets = [0, 3, 8] : !shard.sharding
%p = shard.sharding @grid split_axes = [[0]] {autopar.partial = "sum[1]"} : !shard.sharding
%a1 = shard.shard %a to %s : tensor<8x16xf32>
%a2 = shard.shard %a1 to %s annotate_for_users : tensor<8x16xf32>
%g = shard.get_sharding %a2 : tensor<8x16xf32> -> !shard.sharding
%0 = shard.all_gather %x on @grid grid_axes = [1] gather_axis = 1 : tensor<4x4xf32> -> tensor<4x16xf32>
%1 = shard.all_slice %x on @grid grid_axes = [1] slice_axis = 1 : tensor<4x4xf32> -> tensor<4x1xf32>
%2 = shard.all_reduce %x on @grid grid_axes = [1] reduction = max : tensor<4x4xf32> -> tensor<4x4xf32>
%b = shard.all_reduce %x on @grid grid_axes = [0, 1] : tensor<4x4xf32> -> tensor<4x4xf32>
%3 = shard.all_to_all %x on @grid grid_axes = [1] split_axis = 0 concat_axis = 1 : tensor<4x4xf32> -> tensor<1x16xf32>
%4 = shard.reduce_scatter %x on @grid grid_axes = [1] reduction = max scatter_axis = 0 : tensor<4x4xf32> -> tensor<1x4xf32>
%5 = shard.scatter %x on @grid grid_axes = [1] scatter_axis = 0 root = [1] : (tensor<4x4xf32>) -> tensor<1x4xf32>
%6 = shard.broadcast %x on @grid grid_axes = [1] root = [0] : (tensor<4x4xf32>) -> tensor<4x4xf32>
%7 = shard.gather %x on @grid grid_axes = [1] gather_axis = 1 root = [1] : (tensor<4x4xf32>) -> tensor<4x16xf32>
%8 = shard.reduce %x on @grid grid_axes = [1] reduction = max root = [1] : (tensor<4x4xf32>) -> tensor<4x4xf32>
%9 = shard.send %x on @grid grid_axes = [1] destination = [1] : (tensor<4x4xf32>) -> tensor<4x4xf32>
%10 = shard.recv %x on @grid grid_axes = [1] source = [0] : (tensor<4x4xf32>) -> tensor<4x4xf32>
%11 = shard.shift %x on @grid grid_axes = [1] shift_axis = 1 offset = 2 rotate : tensor<4x4xf32> -> tensor<4x4xf32>
%k = shard.shift %x on @grid grid_axes = [1] shift_axis = 1 offset = -2 : tensor<4x4xf32> -> tensor<4x4xf32>
%12 = shard.update_halo %x on @grid split_axes = [[0], [1]] halo_sizes = [1, %dy, 0, 1] : tensor<4x4xf32>
%i:2 = shard.process_multi_index on @grid : index, index
%j = shard.process_multi_index on @grid axes = [1] : index
%l = shard.process_linear_index on @grid : index
%d, %u = shard.neighbors_linear_indices on @grid[%i#0, %i#1] split_axes = [1] : index, index
%n:2 = shard.grid_shape @grid : index, index
%m = shard.grid_shape @grid axes = [1] : index
%z:2 = shard.shard_shape dims = [%l, 16] sharding = %s device = [0, %i#1] : index, index
"""  # noqa: E501
GRID = 'shard.grid @grid(shape = 2x4) {axis_names = ["data", "model"]}\n'
HEAD = "func.func @f(%x: tensor<4x4xf32>, %a: tensor<8x16xf32>, %dy: i64) {\n"
PERMUTE = (
    "%q = shard.permute %x on @grid grid_axes = [1] pairs = [[0, 1], [1, 0]] : "
    "tensor<4x4xf32> -> tensor<4x4xf32>"
)


def context() -> Context:
    ctx = Context()
    for dialect in (builtin.Builtin, func.Func, Shard):
        ctx.load_dialect(dialect)
    return ctx


def parse(text: str) -> builtin.ModuleOp:
    module = Parser(context(), text).parse_module()
    module.verify()
    return module


def program(ops: str) -> str:
    return GRID + HEAD + ops + "\nreturn\n}\n"


def test_round_trip() -> None:
    module = parse(program(OPS + PERMUTE))
    text = str(module)
    assert "rotate" in text and "pairs = [[0, 1], [1, 0]]" in text
    assert str(parse(text)) == text


@pytest.mark.skipif(MLIR_OPT is None, reason="mlir-opt (mlir-22-tools) is not installed")
@pytest.mark.parametrize("flags", [[], ["--mlir-print-op-generic"]])
def test_mlir_opt_reads_ours_and_we_its(flags: list[str]) -> None:
    module = parse(program(OPS))
    assert MLIR_OPT is not None
    done = subprocess.run(
        [MLIR_OPT, *flags, "-"], input=str(module), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    back = next(iter(parse(done.stdout).body.block.ops))
    inner = parse(done.stdout)
    ops = [op.name for op in module.walk()]
    assert [op.name for op in inner.walk()][-len(ops) :] == ops, back
    for ours, theirs in zip(
        list(module.walk())[1:], list(inner.walk())[-len(ops) + 1 :], strict=True
    ):
        assert ours.properties == theirs.properties
        assert ours.attributes == theirs.attributes


@pytest.mark.skipif(MLIR_OPT is None, reason="mlir-opt (mlir-22-tools) is not installed")
def test_the_road_reads_generic_form() -> None:
    assert MLIR_OPT is not None
    text = subprocess.run(
        [MLIR_OPT, "--mlir-print-op-generic", "-"],
        input=program(OPS),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    theirs = list(parse_module(text).walk())
    for ours, read in zip(parse(text).walk(), theirs, strict=True):
        assert (ours.name, ours.properties) == (read.name, read.properties)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (
            "%0 = shard.all_reduce %x on @mesh grid_axes = [1] : tensor<4x4xf32> -> "
            "tensor<4x4xf32>",
            "names grid @mesh, which is not declared (declared: @grid)",
        ),
        (
            "%0 = shard.all_reduce %x on @grid grid_axes = [2] : tensor<4x4xf32> -> "
            "tensor<4x4xf32>",
            'grid_axes = [2]: grid @grid has no axis 2 (its axes: 0: "data"=2, 1: "model"=4)',
        ),
        (
            "%0 = shard.all_reduce %x on @grid grid_axes = [1, 1] : tensor<4x4xf32> -> "
            "tensor<4x4xf32>",
            'grid axis 1 ("model") is used twice',
        ),
        (
            "%0 = shard.all_slice %y on @grid grid_axes = [1] slice_axis = 0 : tensor<6xf32> -> "
            "tensor<2xf32>",
            "dimension of size 6 of tensor<6xf32> is not divisible by the 4 devices of grid axes "
            "[1] of @grid (2, 4); pad it first",
        ),
        (
            "%0 = shard.all_gather %y on @grid grid_axes = [0] gather_axis = 0 : tensor<6xf32> "
            "-> tensor<6xf32>",
            "result dimension 0 has size 6, expected 12",
        ),
        (
            "%0 = shard.all_gather %y on @grid grid_axes = [0] gather_axis = 1 : tensor<6xf32> "
            "-> tensor<6xf32>",
            "gather_axis = 1: operand tensor<6xf32> has no such dimension",
        ),
        (
            "%0 = shard.permute %y on @grid grid_axes = [0] pairs = [[0, 2]] : tensor<6xf32> -> "
            "tensor<6xf32>",
            "target 2 is out of range for groups of 2 devices",
        ),
        (
            "%0 = shard.permute %y on @grid grid_axes = [0] pairs = [[0, 1], [1, 1]] : "
            "tensor<6xf32> -> tensor<6xf32>",
            "1 stands twice as a target",
        ),
        (
            "%0 = shard.shift %y on @grid grid_axes = [0] shift_axis = 1 offset = 1 : "
            "tensor<6xf32> -> tensor<6xf32>",
            "shift_axis = 1 is not one of grid_axes = [0]",
        ),
        (
            "%0 = shard.broadcast %y on @grid grid_axes = [0] root = [2] : (tensor<6xf32>) -> "
            "tensor<6xf32>",
            "root = [2]: coordinate 2 is out of range for grid axis 0 of size 2",
        ),
        (
            "%0 = shard.process_multi_index on @grid : index",
            "has 1 results, expected 2, one for each of the grid axes [0, 1]",
        ),
        (
            "%0 = shard.sharding @grid split_axes = [[0], [0]] : !shard.sharding",
            'grid axis 0 ("data") is used twice',
        ),
        (
            "%0 = shard.sharding @grid split_axes = [[0], [1]] : !shard.sharding\n"
            "%1 = shard.shard %y to %0 : tensor<6xf32>",
            "split_axes names 2 dimensions, the tensor tensor<6xf32> has 1",
        ),
    ],
)
def test_verifier_messages(op: str, message: str) -> None:
    head = "func.func @f(%x: tensor<4x4xf32>, %y: tensor<6xf32>) {\n"
    with pytest.raises(VerifyException) as error:
        parse(GRID + head + op + "\nreturn\n}")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ('shard.grid @g(shape = 2x4) {axis_names = ["x"]}', "1 axis_names for 2 axes"),
        ('shard.grid @g(shape = 2x4) {axis_names = ["x", "x"]}', 'axis name "x" is used twice'),
        (
            "shard.grid @g(shape = 2) {autopar.device_ids = array<i64: 0, 0>}",
            "must be a permutation of 0 to 1, found [0, 0]",
        ),
        ("shard.grid @g(shape = 0)", "axis 0 has size 0"),
    ],
)
def test_grid_verifier(grid: str, message: str) -> None:
    with pytest.raises(VerifyException) as error:
        parse(grid)
    assert message in str(error.value)


def test_grid_as_data() -> None:
    grid = Grid("mesh", (("x", 2), ("y", 4)), (7, 6, 5, 4, 3, 2, 1, 0))
    op = make_grid_op(grid)
    op.verify()
    module = builtin.ModuleOp([op])
    assert find_grid(module) == grid
    assert find_grid(op, "mesh") == grid
    assert find_grid(module, "other") is None
    unnamed = parse("shard.grid @g(shape = 2x4)")
    found = find_grid(unnamed)
    assert found is not None and found.axes == (("0", 2), ("1", 4))


def test_make_collective() -> None:
    module = parse(program(""))
    block = list(module.ops)[1].regions[0].block
    op = make_collective(AllGatherOp, block.args[0], "grid", [1], [16, 4], gather_axis=0)
    block.insert_op_before(op, block.last_op)  # pyright: ignore[reportArgumentType]
    module.verify()
    assert "grid_axes = [1] gather_axis = 0 : tensor<4x4xf32> -> tensor<16x4xf32>" in str(module)
