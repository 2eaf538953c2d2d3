"""import-sdy: Shardy's spelling of meshes and shardings becomes autopar's.

Meshes. One `shard.grid` stands for all of a module's meshes; it takes the axes of the finest of
those that are used. Meshes of equal device count and order are unified: an axis of another mesh is
written as (sub-)axes of the grid (`unify_meshes.py`, `meshes.py`). Empty meshes, meshes of one
device and maximal ones mean: replicated. `autopar.meshes` on the grid keeps all declarations and
`autopar.mesh` on a value the mesh that it named, where there are several, so that export-sdy
restores them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    ModuleOp,
    ShapedType,
    StringAttr,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, BlockArgument, Operation
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from autopar.dialects import autopar, sdy
from autopar.dialects.autopar import MESH, ShardingAttr, entries_of
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.sdy import Mesh, TensorSharding, TensorShardingAttr
from autopar.dialects.sdy import TensorShardingPerValueAttr as PerValueAttr
from autopar.dialects.sharding import AxisRef, DimSharding, Grid, Sharding
from autopar.dialects.stablehlo.shape import ConstantOp
from autopar.passes.collector import collector_off
from autopar.passes.walk import SHARDED_BODIES, inner_ops

from .grid_option import find_grid_op
from .group_axes import list_groups
from .meshes import axis_problem, overlap, translate_axes, translate_sharding
from .unify_meshes import name_of_mesh, replace_meshes, unify_meshes

_COLLECTIVES = (
    sdy.AllGatherOp,
    sdy.AllSliceOp,
    sdy.AllToAllOp,
    sdy.CollectivePermuteOp,
    sdy.AllReduceOp,
    sdy.ReduceScatterOp,
    sdy.ShardedToUnreducedOp,
    sdy.ReplicatedToUnreducedOp,
)


@dataclass(frozen=True)
class ImportSdyPass(ModulePass):
    """Turns sdy meshes into shard.grid and sdy shardings into autopar's.

    Needs: any module. Guarantees: no sdy.mesh, sdy.sharding, sdy.sharding_constraint, sdy.reshard
    or sdy collective is left; every sharding names existing axes once and fits its value's rank.
    Other sdy ops and attributes stay. A module without sdy is not touched.
    """

    name = "import-sdy"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        import_sdy(op)


@dataclass
class _Importer:
    meshes: dict[str, Mesh]
    grid: Grid
    several: bool
    cache: dict[tuple[TensorSharding, Attribute], ShardingAttr] = field(
        default_factory=dict[tuple[TensorSharding, Attribute], ShardingAttr]
    )

    def mesh_of(self, value: TensorSharding, place: Operation, what: str) -> tuple[str, Mesh]:
        if value.inlined_mesh is not None:
            return name_of_mesh(self.meshes, value.inlined_mesh), value.inlined_mesh
        name = value.sharding.grid
        mesh = self.meshes.get(name)
        if mesh is None:
            known = ", ".join(f"@{mesh}" for mesh in self.meshes) or "none"
            raise DiagnosticError(
                place,
                f"{what}: sharding <{value}> is on mesh @{name}, which the module does not "
                f"declare (declared: {known})",
            )
        return name, mesh

    def convert(
        self, value: TensorSharding, type: Attribute, place: Operation, what: str
    ) -> ShardingAttr:
        """The sharding of a value of `type`, on the grid."""
        attr = self.cache.get((value, type))
        if attr is None:
            attr = ShardingAttr(self._convert(value, type, place, what))
            self.cache[(value, type)] = attr
        return attr

    def _convert(
        self, value: TensorSharding, type: Attribute, place: Operation, what: str
    ) -> Sharding:
        name, mesh = self.mesh_of(value, place, what)
        rank = type.get_num_dims() if isinstance(type, ShapedType) else 0
        sharding = value.sharding
        if mesh.is_maximal and not sharding.dims:
            return Sharding.fully_replicated(self.grid.name, rank)
        if sharding.rank != rank:
            raise DiagnosticError(
                place,
                f"{what}: sharding <{value}> has {sharding.rank} dimensions, the value of type "
                f"{type} has {rank}: give one {{...}} for each dimension",
            )
        used = list(sharding.used_axes())
        for axis in used:
            if problem := axis_problem(axis, mesh.axes):
                raise DiagnosticError(
                    place, f"{what}: sharding <{value}> on mesh @{name}: {problem}"
                )
        if pair := overlap(used, mesh.axes):
            raise DiagnosticError(
                place,
                f"{what}: sharding <{value}> uses axis {pair[0]} twice"
                if pair[0] == pair[1]
                else f"{what}: sharding <{value}> uses {pair[0]} and {pair[1]}, which overlap",
            )
        if mesh.num_devices == 1:
            dims = tuple(DimSharding((), dim.is_open, dim.priority) for dim in sharding.dims)
            return Sharding(self.grid.name, dims)
        if mesh.axes == self.grid.axes:
            return replace(sharding, grid=self.grid.name)
        found = translate_sharding(sharding, mesh.axes, self.grid.name, self.grid.axes)
        assert found is not None, "the grid refines every mesh"
        return found

    def mark(self, value: TensorSharding) -> StringAttr | None:
        """What remembers the value's mesh, where there is more than one."""
        if not self.several:
            return None
        mesh = value.inlined_mesh
        name = value.sharding.grid if mesh is None else name_of_mesh(self.meshes, mesh)
        return None if name == self.grid.name else StringAttr(name)


def import_sdy(module: ModuleOp) -> None:
    """Replaces sdy's meshes and shardings in `module` by autopar's."""
    ops = [op for op in module.body.block.ops if isinstance(op, sdy.MeshOp)]
    meshes = {op.sym_name.data: op.mesh.data for op in ops}
    existing = find_grid_op(module)  # made before, or written beside
    if existing is not None:
        given = existing.as_written()
        meshes[given.name] = Mesh(given.axes, given.device_ids or ())
    used: set[str] = set()
    last: TensorSharding | None = None
    speaking = _speaking_ops(module)
    for value in _shardings(speaking):
        if value is last:
            continue
        last = value
        mesh = value.inlined_mesh
        if mesh is None:
            used.add(value.sharding.grid)
            continue
        if mesh not in meshes.values():
            index = next(i for i in range(len(meshes) + 1) if _lifted_name(i) not in meshes)
            meshes[_lifted_name(index)] = mesh
        used.add(name_of_mesh(meshes, mesh))
    if not ops and not used:
        return
    if existing is not None:
        used.add(existing.sym_name.data)
    grid = unify_meshes(module, ops, meshes, used)
    if existing is not None and grid != existing.as_written():
        raise DiagnosticError(
            existing,
            f"the module has the grid @{existing.sym_name.data}, and sdy shardings on the mesh "
            f"({', '.join(f'{name}={size}' for name, size in grid.axes)}): write both on one mesh",
        )
    importer = _Importer(meshes, grid, len(meshes) > 1)
    with collector_off():
        for op in speaking:
            list_groups(op, meshes)
            _import_op(op, importer)
    if meshes:
        replace_meshes(module, ops, meshes, grid, existing)


def _lifted_name(index: int) -> str:
    return "mesh" if index == 0 else f"mesh_{index - 1}"


def _speaking_ops(module: ModuleOp) -> list[Operation]:
    """The ops that may name a mesh, in program order: few of a program's."""
    speak: dict[type[Operation], bool] = {}
    found: list[Operation] = []
    for op in inner_ops(module):
        kind = type(op)
        speaks = speak.get(kind)
        if speaks is None:
            speaks = speak[kind] = kind is FuncOp or op.name.startswith("sdy.")
        if (
            speaks
            or (op.attributes and sdy.SHARDING in op.attributes)
            or "replica_groups" in op.properties
        ):
            found.append(op)
    return found


def _shardings(ops: Iterable[Operation]) -> Iterator[TensorSharding]:
    """Every sharding that the ops write down."""
    for op in ops:
        if isinstance(op, FuncOp):
            for attrs in (op.arg_attrs, op.res_attrs):
                for entry in attrs.data if attrs is not None else ():
                    yield from _of_attribute(entry.data.get(sdy.SHARDING))
            continue
        if op.attributes:
            yield from _of_attribute(op.attributes.get(sdy.SHARDING))
        if op.name.startswith("sdy."):
            for attr in op.properties.values():
                yield from _of_attribute(attr)


def _of_attribute(attr: Attribute | None) -> tuple[TensorSharding, ...]:
    if attr is None:
        return ()
    if isinstance(attr, TensorShardingAttr):
        return (attr.data,)
    return attr.data if isinstance(attr, PerValueAttr) else ()


def _import_function(op: FuncOp, importer: _Importer) -> None:
    """The shardings of arguments and results."""
    name = op.sym_name.data
    type = op.function_type
    for key, types, what in (
        ("arg_attrs", type.inputs.data, "argument"),
        ("res_attrs", type.outputs.data, "result"),
    ):
        attrs = op.properties.get(key)
        if attrs is None:
            continue
        entries: list[DictionaryAttr] = []
        for index, entry in enumerate(entries_of(attrs, len(types))):  # pyright: ignore
            value = entry.data.get(sdy.SHARDING)
            if isinstance(value, TensorShardingAttr):
                where = f"{what} {index} of @{name}"
                converted = importer.convert(value.data, types[index], op, where)
                data = {k: v for k, v in entry.data.items() if k != sdy.SHARDING}
                data[autopar.SHARDING] = converted
                if (mark := importer.mark(value.data)) is not None:
                    data[MESH] = mark
                entry = DictionaryAttr(data)
            entries.append(entry)
        op.properties[key] = ArrayAttr(entries)


def _import_op(op: Operation, importer: _Importer) -> None:
    if isinstance(op, FuncOp):
        _import_function(op, importer)
        return
    if op.attributes and (attr := op.attributes.pop(sdy.SHARDING, None)) is not None:
        _annotate(op, _of_attribute(attr), importer)
    if not op.name.startswith("sdy."):
        return
    match op:
        case sdy.ShardingConstraintOp() if _is_scalar_body(op.parent_op()):
            Rewriter.replace_op(op, [], [op.input])
        case sdy.ShardingConstraintOp() if _may_say_of_argument(op, importer):
            _say_of_argument(op, importer)
        case sdy.ShardingConstraintOp():
            _replace(op, autopar.ConstraintOp, op.sharding.data, importer)
        case sdy.ReshardOp():
            _replace(op, autopar.ReshardOp, op.sharding.data, importer)
        case _ if isinstance(op, _COLLECTIVES):
            _replace(op, autopar.ReshardOp, op.out_sharding.data, importer)
        case sdy.ConstantOp():
            _replace_constant(op)
        case sdy.DataFlowEdgeOp():
            if op.sharding is not None:
                _annotate(op, (op.sharding.data,), importer)
                del op.properties["sharding"]
        case sdy.ManualComputationOp() | sdy.NamedComputationOp():
            _import_computation(op, importer)
        case _:
            pass


def _is_scalar_body(op: Operation | None) -> bool:
    """Whether an op's region computes on the scalars of a reduction: JAX writes constraints there
    (in a shard_map with manual and other axes), which say nothing."""
    return op is not None and op.name not in SHARDED_BODIES


def _may_say_of_argument(op: sdy.ShardingConstraintOp, importer: _Importer) -> bool:
    """Whether a constraint says what JAX would say of an argument had this a sharding: that the
    words of a PRNG key are whole. It stands on a mesh of one device then."""
    source = op.input
    if not isinstance(source, BlockArgument) or not source.has_one_use():
        return False
    func = source.block.parent_op()
    return (
        isinstance(func, FuncOp)
        and func.body.first_block is source.block
        and autopar.sharding_of(source) is None
        and importer.mesh_of(op.sharding.data, op, f"'{op.name}' op")[1].num_devices == 1
    )


def _say_of_argument(op: sdy.ShardingConstraintOp, importer: _Importer) -> None:
    value = op.sharding.data
    converted = importer.convert(value, op.input.type, op, f"'{op.name}' op")
    autopar.set_sharding(op.input, converted.data)
    Rewriter.replace_op(op, [], [op.input])


def _annotate(op: Operation, shardings: tuple[TensorSharding, ...], importer: _Importer) -> None:
    """Writes the shardings of an op's results."""
    if not op.results and len(shardings) == 1:
        return  # JAX gives an effect without results the place where it runs; effects run once
    if len(shardings) != len(op.results):
        raise DiagnosticError(
            op, f"'{op.name}' op has {len(shardings)} shardings for {len(op.results)} results"
        )
    what = f"'{op.name}' op"
    op.attributes[autopar.SHARDING] = ArrayAttr(
        [
            importer.convert(value, result.type, op, what)
            for value, result in zip(shardings, op.results, strict=True)
        ]
    )
    if shardings and (mark := importer.mark(shardings[0])) is not None:
        op.attributes[MESH] = mark


def _replace(
    op: Operation,
    kind: type[autopar.ConstraintOp] | type[autopar.ReshardOp],
    value: TensorSharding,
    importer: _Importer,
) -> None:
    new = kind.create(
        operands=[op.operands[0]],
        result_types=[op.results[0].type],
        properties={"sharding": importer.convert(value, op.results[0].type, op, f"'{op.name}' op")},
        attributes=op.attributes,
        location=op.location,
    )
    if (mark := importer.mark(value)) is not None:
        new.attributes[MESH] = mark
    assert op.parent is not None
    op.parent.insert_op_before(new, op)
    new.results[0].name_hint = op.results[0].name_hint
    op.results[0].replace_all_uses_with(new.results[0])
    op.detach()
    op.erase()


def _replace_constant(op: sdy.ConstantOp) -> None:
    """Shardy's copy of a constant for one user becomes StableHLO's constant again."""
    new = ConstantOp.create(
        result_types=[op.output.type],
        properties={"value": op.value},
        attributes=op.attributes,
        location=op.location,
    )
    assert op.parent is not None
    op.parent.insert_op_before(new, op)
    new.results[0].name_hint = op.output.name_hint
    op.output.replace_all_uses_with(new.results[0])
    op.detach()
    op.erase()


def _import_computation(
    op: sdy.ManualComputationOp | sdy.NamedComputationOp, importer: _Importer
) -> None:
    """Puts the shardings of a computation on the grid; those of results stand on them too."""
    what = f"'{op.name}' op"
    first: TensorSharding | None = None
    for key, values in (("in_shardings", op.operands), ("out_shardings", op.results)):
        attr = op.properties.get(key)
        if not isinstance(attr, PerValueAttr):
            continue
        if len(attr.data) != len(values):
            raise DiagnosticError(op, f"{what} has {len(attr.data)} {key} for {len(values)} values")
        first = first or next(iter(attr.data), None)
        found = [
            importer.convert(value, ssa.type, op, what)
            for value, ssa in zip(attr.data, values, strict=True)
        ]
        # Written on the mesh itself: jaxlib looks for an sdy.mesh, and there is none any more.
        inlined = Mesh(importer.grid.axes, importer.grid.device_ids or ())
        op.properties[key] = PerValueAttr(
            tuple(TensorSharding(attr.data, inlined) for attr in found)
        )
        if key == "out_shardings" and found:
            op.attributes[autopar.SHARDING] = ArrayAttr(found)
    if isinstance(op, sdy.ManualComputationOp) and first is not None:
        _, mesh = importer.mesh_of(first, op, what)
        op.properties["manual_axes"] = sdy.ManualAxesAttr(
            tuple(_manual_axes(op, op.manual_axes.data, mesh, importer))
        )
    if first is not None and (mark := importer.mark(first)) is not None:
        op.attributes[MESH] = mark


def _manual_axes(
    op: Operation, names: tuple[str, ...], mesh: Mesh, importer: _Importer
) -> Iterator[str]:
    for name in names:
        axis = AxisRef(name)
        if problem := axis_problem(axis, mesh.axes):
            raise DiagnosticError(op, f"'{op.name}' op manual_axes: {problem}")
        if mesh.axes == importer.grid.axes:
            yield name
            continue
        found = translate_axes((axis,), mesh.axes, importer.grid.axes) or ()
        for part in found:
            if not part.is_whole:
                raise DiagnosticError(
                    op,
                    f"'{op.name}' op is manual on axis {axis}, which is only a part of an axis of "
                    f"mesh @{importer.grid.name} ({part}): write both on one mesh",
                )
            yield part.name
