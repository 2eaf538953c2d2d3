"""export-sdy: autopar's shardings in Shardy's spelling, for jaxlib and plain `jax.jit`.

What sdy cannot say is left out: partial results of another kind than sum (the annotation then
demands the reduced value, which is what the program means), strategies.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    DictionaryAttr,
    ModuleOp,
    StringAttr,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation
from xdsl.passes import ModulePass
from xdsl.utils.hints import isa

from autopar.dialects import autopar, sdy
from autopar.dialects.autopar import DEVICE_IDS, MESH, MESHES, ShardingAttr
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.sdy import Mesh, MeshAttr, MeshOp, TensorSharding, TensorShardingAttr
from autopar.dialects.sdy import TensorShardingPerValueAttr as PerValueAttr
from autopar.dialects.shard import AXIS_NAMES, GridOp
from autopar.dialects.sharding import DimSharding, Partial, Sharding
from autopar.passes.collector import collector_off
from autopar.passes.walk import sharded_ops

from .annotations import check_shardings
from .meshes import axis_problem, in_mesh_order, merge_axes, translate_sharding
from .shard_ops_to_attributes import shard_ops_to_attributes

_GRID_ATTRIBUTES = {MESHES, AXIS_NAMES, DEVICE_IDS}


@dataclass(frozen=True)
class ExportSdyPass(ModulePass):
    """Turns shard.grid into sdy meshes and autopar's shardings into sdy's.

    Needs: an annotated program with global shapes (L1), in attribute or op form. Guarantees: a
    module that jaxlib accepts, with sdy.sharding wherever autopar.sharding stood, and meshes under
    the names that import-sdy found. No shard or autopar op or attribute is left.
    """

    name = "export-sdy"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        export_sdy(op)


@dataclass
class _Exporter:
    grid: str
    axes: tuple[tuple[str, int], ...]
    meshes: dict[str, Mesh]
    cache: dict[tuple[Attribute, str], TensorSharding] = field(
        default_factory=dict[tuple[Attribute, str], TensorSharding]
    )

    def convert_all(
        self, attr: PerValueAttr, mark: Attribute | None, place: Operation
    ) -> PerValueAttr:
        """The shardings of a computation's operands or results, written on a named mesh."""
        found = [ShardingAttr(replace(value.sharding, grid=self.grid)) for value in attr.data]
        return PerValueAttr(tuple(self.convert(entry, mark, place) for entry in found))

    def convert(self, attr: Attribute, mark: Attribute | None, place: Operation) -> TensorSharding:
        assert isinstance(attr, ShardingAttr)
        name = mark.data if isinstance(mark, StringAttr) else self.grid
        value = self.cache.get((attr, name))
        if value is None:
            value = TensorSharding(self._convert(attr.data, name, place))
            self.cache[(attr, name)] = value
        return value

    def _convert(self, sharding: Sharding, name: str, place: Operation) -> Sharding:
        for axis in sharding.used_axes():
            if problem := axis_problem(axis, self.axes):
                raise DiagnosticError(place, f"sharding <{sharding}> on @{self.grid}: {problem}")
        mesh = self.meshes.get(name)
        if mesh is not None and name != self.grid:
            if mesh.num_devices == 1 and sharding.is_replicated and not sharding.replicated:
                dims = () if mesh.is_maximal else sharding.dims
                return Sharding(name, dims)
            if mesh.num_devices > 1:
                found = translate_sharding(sharding, self.axes, name, mesh.axes)
                if found is not None:
                    return _for_sdy(found, mesh.axes)
        home = self.meshes.get(self.grid)
        if home is not None and home.is_maximal:
            return Sharding(self.grid, ())
        kept = Sharding(self.grid, sharding.dims, sharding.replicated, sharding.partial)
        return _for_sdy(kept, self.axes)


def _for_sdy(sharding: Sharding, axes: tuple[tuple[str, int], ...]) -> Sharding:
    """What sdy's verifier wants: merged sub-axes, axes in mesh order, no empty closed priority."""
    dims: list[DimSharding] = []
    for dim in sharding.dims:
        keep = dim.is_open or dim.axes
        dims.append(
            DimSharding(merge_axes(dim.axes, axes), dim.is_open, dim.priority if keep else None)
        )
    sums = [axis for p in sharding.partial if p.kind == "sum" for axis in p.axes]
    return Sharding(
        sharding.grid,
        tuple(dims),
        in_mesh_order(sharding.replicated, axes),
        (Partial("sum", in_mesh_order(sums, axes)),) if sums else (),
    )


def export_sdy(module: ModuleOp) -> None:
    """Replaces autopar's shardings in `module` by sdy's."""
    shard_ops_to_attributes(module)
    # what the borders of computations name becomes the module's mesh
    borders = (sdy.ManualComputationOp, sdy.NamedComputationOp)
    check_shardings(module, (op for op in sharded_ops(module) if not isinstance(op, borders)))
    grids = [op for op in module.body.block.ops if isinstance(op, GridOp)]
    if len(grids) > 1:
        names = ", ".join(f"@{op.sym_name.data}" for op in grids)
        raise DiagnosticError(grids[1], f"export-sdy needs one shard.grid, found {names}")
    if grids:
        grid = grids[0].to_grid()
        meshes = _meshes_of(grids[0])
        exporter = _Exporter(grid.name, grid.axes, {n: m for n, (m, _) in meshes.items()})
    else:
        meshes, exporter = {}, _Exporter("", (), {})
    with collector_off():
        for op in list(module.walk()):
            _export_op(op, exporter)
    if grids:
        block = module.body.block
        for name, (mesh, attributes) in meshes.items():
            new = MeshOp(name, mesh)
            new.attributes.update(attributes)
            new.location = grids[0].location
            block.insert_op_before(new, grids[0])
        grids[0].detach()
        grids[0].erase()


def _meshes_of(op: GridOp) -> dict[str, tuple[Mesh, dict[str, Attribute]]]:
    """The sdy meshes to declare, with their other attributes."""
    kept = op.attributes.get(MESHES)
    if isa(kept, ArrayAttr[DictionaryAttr]):
        found: dict[str, tuple[Mesh, dict[str, Attribute]]] = {}
        for entry in kept.data:
            name, mesh = entry.data.get("name"), entry.data.get("mesh")
            if isinstance(name, StringAttr) and isinstance(mesh, MeshAttr):
                others = {k: v for k, v in entry.data.items() if k not in ("name", "mesh")}
                found[name.data] = (mesh.data, others)
        return found
    grid = op.to_grid()
    ids = op.attributes.get(DEVICE_IDS)
    mesh = Mesh(grid.axes, grid.device_ids or () if isinstance(ids, DenseArrayBase) else ())
    others = {k: v for k, v in op.attributes.items() if k not in _GRID_ATTRIBUTES}
    return {grid.name: (mesh, others)}


def _export_entry(entry: DictionaryAttr, exporter: _Exporter, place: Operation) -> DictionaryAttr:
    attr = entry.data.get(autopar.SHARDING)
    if attr is None and MESH not in entry.data:
        return entry
    data = {k: v for k, v in entry.data.items() if k not in (autopar.SHARDING, MESH)}
    if attr is not None:
        data[sdy.SHARDING] = TensorShardingAttr(exporter.convert(attr, entry.data.get(MESH), place))
    return DictionaryAttr(data)


def _export_op(op: Operation, exporter: _Exporter) -> None:
    if isinstance(op, FuncOp):
        for key, attrs in (("arg_attrs", op.arg_attrs), ("res_attrs", op.res_attrs)):
            if attrs is not None:
                op.properties[key] = ArrayAttr(
                    [_export_entry(entry, exporter, op) for entry in attrs.data]
                )
        return
    if isinstance(op, autopar.ConstraintOp | autopar.ReshardOp):
        _replace(op, exporter)
        return
    if isinstance(op, sdy.ManualComputationOp | sdy.NamedComputationOp) and exporter.grid:
        for key in ("in_shardings", "out_shardings"):
            if isinstance(values := op.properties.get(key), PerValueAttr):
                mark = op.attributes.get(MESH)
                op.properties[key] = exporter.convert_all(values, mark, op)
    if not op.attributes:
        return
    op.attributes.pop(autopar.STRATEGY, None)
    mark = op.attributes.pop(MESH, None)
    attr = op.attributes.pop(autopar.SHARDING, None)
    if attr is None:
        return
    entries = cast(ArrayAttr[Attribute], attr).data
    values = tuple(exporter.convert(entry, mark, op) for entry in entries)
    if isinstance(op, sdy.DataFlowEdgeOp):
        op.properties["sharding"] = TensorShardingAttr(values[0])
    elif isinstance(op, sdy.ManualComputationOp | sdy.NamedComputationOp):
        op.properties["out_shardings"] = PerValueAttr(values)
    elif not op.name.startswith("sdy.") or isinstance(op, sdy.PropagationBarrierOp):
        op.attributes[sdy.SHARDING] = PerValueAttr(values)


def _replace(op: autopar.ConstraintOp | autopar.ReshardOp, exporter: _Exporter) -> None:
    mark = op.attributes.pop(MESH, None)
    op.attributes.pop(autopar.SHARDING, None)
    kind = sdy.ShardingConstraintOp if isinstance(op, autopar.ConstraintOp) else sdy.ReshardOp
    new = kind.create(
        operands=[op.input],
        result_types=[op.result.type],
        properties={"sharding": TensorShardingAttr(exporter.convert(op.sharding, mark, op))},
        attributes=op.attributes,
        location=op.location,
    )
    assert op.parent is not None
    op.parent.insert_op_before(new, op)
    new.result.name_hint = op.result.name_hint
    op.result.replace_all_uses_with(new.result)
    op.detach()
    op.erase()
