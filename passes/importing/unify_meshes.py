"""One grid for all meshes of a module: which it is, and its op instead of their declarations."""

from __future__ import annotations

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp, StringAttr

from autopar.dialects import sdy
from autopar.dialects.autopar import MESHES
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.sdy import Mesh, MeshAttr
from autopar.dialects.shard import GridOp, make_grid_op
from autopar.dialects.sharding import Grid

from .meshes import refine_together


def name_of_mesh(meshes: dict[str, Mesh], mesh: Mesh) -> str:
    """The name that a mesh is declared by."""
    return next(name for name, other in meshes.items() if other == mesh)


def unify_meshes(
    module: ModuleOp, ops: list[sdy.MeshOp], meshes: dict[str, Mesh], used: set[str]
) -> Grid:
    """The grid that stands for all meshes in use."""
    places = {op.sym_name.data: op for op in ops}
    names = [name for name in meshes if name in used] or list(meshes)
    real = [name for name in names if meshes[name].num_devices > 1]
    # Meshes of one device (of callbacks, of random bits) do not say what to run on.
    real = real or [name for name in meshes if meshes[name].num_devices > 1]
    if not real:
        name = names[0] if names else "mesh"
        axes = meshes[name].axes if names else ()
        return Grid(name, axes or (("device", 1),))
    finest = max(real, key=lambda name: sum(size > 1 for _, size in meshes[name].axes))
    base = meshes[finest]
    for name in real:
        mesh = meshes[name]
        place, other = places.get(name, module), places.get(finest, module)
        if mesh.num_devices != base.num_devices:
            raise DiagnosticError(
                place,
                f"mesh @{name} has {mesh.num_devices} devices and mesh @{finest} "
                f"{base.num_devices}: one program runs on one set of devices; use meshes of "
                "equal size",
                notes=[(other, f"@{finest} is declared here")],
            )
        if mesh.device_ids != base.device_ids:
            raise DiagnosticError(
                place,
                f"meshes @{name} and @{finest} order their devices differently (device_ids "
                f"{list(mesh.device_ids) or 'by number'} and {list(base.device_ids) or 'by number'}"
                "): one program runs on one order of devices",
                notes=[(other, f"@{finest} is declared here")],
            )
    if not refine_together(meshes[name].axes for name in real):
        shapes = ", ".join(
            f"@{name} " + "x".join(str(size) for _, size in meshes[name].axes) for name in real
        )
        raise DiagnosticError(
            places.get(finest, module),
            f"the meshes {shapes} have no common refinement: cut the devices into axes whose "
            "sizes divide each other in order",
        )
    return Grid(finest, base.axes, base.device_ids or None)


def replace_meshes(
    module: ModuleOp,
    ops: list[sdy.MeshOp],
    meshes: dict[str, Mesh],
    grid: Grid,
    existing: GridOp | None,
) -> None:
    """Puts one grid in the place of all mesh declarations, which it remembers if they differ."""
    grid_op = make_grid_op(grid) if existing is None else existing
    kept = {op.sym_name.data: op for op in ops}
    own = meshes.get(grid.name)
    same = own is not None and own == Mesh(grid.axes, grid.device_ids or ())
    if len(meshes) > 1 or not same:
        # A list: MLIR sorts the entries of dictionaries.
        grid_op.attributes[MESHES] = ArrayAttr(
            [
                DictionaryAttr(
                    {
                        **(kept[name].attributes if name in kept else {}),
                        "name": StringAttr(name),
                        "mesh": MeshAttr(mesh),
                    }
                )
                for name, mesh in meshes.items()
            ]
        )
    elif grid.name in kept:
        grid_op.attributes.update(kept[grid.name].attributes)
    block = module.body.block
    if existing is not None:
        pass
    elif ops:
        grid_op.location = ops[0].location
        block.insert_op_before(grid_op, ops[0])
    elif block.first_op is not None:
        block.insert_op_before(grid_op, block.first_op)
    for op in ops:
        op.detach()
        op.erase()
