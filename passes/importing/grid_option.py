"""The grid of a module, and the option `grid=2x4 axis-names=x,y` for one that declares none."""

from __future__ import annotations

import re

from xdsl.dialects.builtin import ModuleOp

from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.shard import GridOp, adopt_xdsl_ops, make_grid_op
from autopar.dialects.sharding import Grid, parse_axis


def find_grid_op(module: ModuleOp) -> GridOp | None:
    """The module's grid; an error where it has several (import-sdy unifies them)."""
    adopt_xdsl_ops(module)
    grids = [op for op in module.ops if isinstance(op, GridOp)]
    if len(grids) > 1:
        names = ", ".join(f"@{g.sym_name.data}" for g in grids)
        raise DiagnosticError(
            grids[1], f"a program is partitioned over one grid, but the module has {names}"
        )
    return grids[0] if grids else None


def require_grid_op(
    module: ModuleOp, what: str, pass_name: str | None = None, commands: str | None = None
) -> GridOp:
    """The module's grid; the error where it has none says how to give `pass_name` one (None: a
    pass that has no such option). `commands`: where else its option goes than on the command line.
    """
    grid_op = find_grid_op(module)
    if grid_op is not None:
        return grid_op
    where = "" if commands is None else f" ({commands})"
    remedy = f'give --{pass_name}="grid=2x4"{where} or a shard.grid (sdy.mesh) in the module'
    if pass_name is None:
        remedy = (
            "write a shard.grid (sdy.mesh) into it, or run annotate-method or auto-shard before, "
            "which take grid=2x4"
        )
    for older, name in (("mesh.mesh", "convert-mesh-to-shard"), ("sdy.mesh", "import-sdy")):
        if any(op.name == older for op in module.ops):
            remedy = f"run {name} first, which makes one of {older}"
    raise DiagnosticError(
        module, f"{what} needs a device grid, and the module declares none: {remedy}"
    )


def parse_grid(text: str, axis_names: tuple[str, ...] | None = None, name: str = "mesh") -> Grid:
    """A grid from `2x4`. Axis names default to x, y, z, … ValueError for anything else."""
    if not re.fullmatch(r"[0-9]+(x[0-9]+)*", text.lower()):
        raise ValueError(f"grid={text}: expected sizes joined by x, as in grid=2x4")
    shape = tuple(map(int, text.lower().split("x")))
    if 0 in shape:
        raise ValueError(f"grid={text}: an axis has at least one device, not 0")
    names = axis_names or tuple("xyz"[i] if len(shape) <= 3 else f"a{i}" for i in range(len(shape)))
    for index, axis in enumerate(names):
        if not axis.strip():
            raise ValueError(f"axis-names={','.join(names)}: the name of axis {index} is empty")
        if not parse_axis(axis).is_whole:
            raise ValueError(
                f"axis-names={','.join(names)}: {axis} is how a part of an axis is spelled"
            )
    if len(names) != len(shape):
        raise ValueError(
            f"grid={text} has {len(shape)} axes, axis-names={','.join(names)} names {len(names)}"
        )
    if len(set(names)) != len(names):
        raise ValueError(f"axis-names={','.join(names)}: a name is used twice")
    return Grid(name, tuple(zip(names, shape, strict=True)))


def check_grid(text: str | None, axis_names: tuple[str, ...] | None = None) -> None:
    """ValueError says what is wrong with the two options, for a pass to raise when it is built."""
    if text is not None:
        parse_grid(text, axis_names)
    elif axis_names is not None:
        raise ValueError(f"axis-names={','.join(axis_names)} without grid=: give both")


def ensure_grid(
    module: ModuleOp, text: str | None, axis_names: tuple[str, ...] | None = None
) -> None:
    """Declares the grid of the option, or checks that it is the module's."""
    if text is None:
        return
    wanted = parse_grid(text, axis_names)
    existing = find_grid_op(module)
    unread = next((op for op in module.ops if op.name in ("sdy.mesh", "mesh.mesh")), None)
    if existing is None and unread is not None:
        first = "import-sdy" if unread.name == "sdy.mesh" else "convert-mesh-to-shard"
        raise DiagnosticError(
            unread, f"the module declares its own mesh ('{unread.name}'): run {first} first"
        )
    if existing is None:
        block = module.body.block
        grid_op = make_grid_op(wanted)
        if block.first_op is None:
            block.add_op(grid_op)
        else:
            block.insert_op_before(grid_op, block.first_op)
        return
    have = existing.to_grid()
    if have.shape != wanted.shape or (axis_names and have.axis_names != wanted.axis_names):
        axes = ", ".join(f'"{name}"={size}' for name, size in have.axes)
        raise DiagnosticError(
            existing,
            f"the option grid={text} differs from the module's grid @{have.name} ({axes}): "
            "leave the option out, or change the module",
        )
