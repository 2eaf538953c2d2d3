"""Pass `even-boundary`: arguments and results of @main only split where the axes divide."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, NameLoc, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, BlockArgument
from xdsl.passes import ModulePass

from autopar.dialects.autopar import (
    arg_shardings,
    result_shardings,
    set_arg_shardings,
    set_result_shardings,
)
from autopar.dialects.diagnostics import remark
from autopar.dialects.sharding import DimSharding, Grid, Sharding
from autopar.passes.entry import main_function
from autopar.passes.importing.annotations import check_shardings
from autopar.passes.importing.grid_option import require_grid_op


@dataclass(frozen=True)
class EvenBoundaryPass(ModulePass):
    """Drop axes that do not divide a dimension of an argument or result of @main.

    Needs: shardings on the boundary (sharding-propagation). jax.Arrays with NamedSharding cannot be
    padded, so that `parallelize` runs this before partitioning; a remark says what was dropped.
    Guarantees: every sharding on the boundary divides its tensor.
    """

    name = "even-boundary"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        func, grid = main_function(op), require_grid_op(op, self.name).to_grid()
        check_shardings(op, [func])
        make_boundary_even(func, grid)


def make_boundary_even(func: FuncOp, grid: Grid) -> None:
    """Drops uneven axes from the shardings of the function's arguments and results."""
    arguments, results = arg_shardings(func), result_shardings(func)
    types = func.function_type
    even_arguments = [
        _even(func, arg, sharding, type, grid)
        for arg, sharding, type in zip(
            func.body.block.args, arguments, types.inputs.data, strict=True
        )
    ]
    even_results = [
        _even(func, index, sharding, type, grid)
        for index, (sharding, type) in enumerate(zip(results, types.outputs.data, strict=True))
    ]
    if even_arguments != arguments:
        set_arg_shardings(func, even_arguments)
    if even_results != results:
        set_result_shardings(func, even_results)


def _label(arg: BlockArgument | int) -> str:
    """`argument 2 (state['w'])`: JAX names arguments in their locations; a number is a result's."""
    if isinstance(arg, int):
        return f"result {arg}"
    place = arg.location
    name = f" ({place.desc.data})" if isinstance(place, NameLoc) else ""
    return f"argument {arg.index}{name}"


def _even(
    func: FuncOp,
    value: BlockArgument | int,
    sharding: Sharding | None,
    type: Attribute,
    grid: Grid,
) -> Sharding | None:
    if sharding is None or not isinstance(type, TensorType):
        return sharding
    if sharding.is_replicated:
        return sharding
    dims: list[DimSharding] = []
    for size, dim in zip(type.get_shape(), sharding.dims, strict=True):
        axes = dim.axes
        while axes and size % grid.parts(axes):
            axes = axes[:-1]
        if axes != dim.axes:
            wanted = ", ".join(map(str, dim.axes))
            kept = ", ".join(map(str, axes)) or "no axis"
            remark(
                func,
                f"{_label(value)} of @{func.sym_name.data}: a dimension of size {size} is not "
                f"divisible over {wanted}: it is kept on {kept}",
            )
        dims.append(DimSharding(axes, dim.is_open, dim.priority))
    if tuple(dims) == sharding.dims:
        return sharding
    return Sharding(sharding.grid, tuple(dims), sharding.replicated, sharding.partial)
