"""convert-mesh-to-shard: MLIR's older `mesh` dialect becomes `shard`, op by op.

`mesh.shard %x to <@m, [[0]], partial = sum[1]>` becomes a `shard.sharding` with the discardable
attribute `autopar.partial = "sum[1]"` and a `shard.shard`. Equal shardings share one op a block.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr, SymbolRefAttr
from xdsl.dialects.shard import ReductionKindAttr, ShardAxesArrayAttr, ShardingType
from xdsl.ir import Attribute, Block, Operation
from xdsl.passes import ModulePass

from autopar.dialects import mesh, shard
from autopar.dialects.autopar import PARTIAL
from autopar.dialects.mesh import MeshSharding, PartialAttr

_PROPERTIES = {"mesh": "grid", "mesh_axes": "grid_axes"}
_NAMES = {"mesh.mesh": "shard.grid", "mesh.mesh_shape": "shard.grid_shape"}
_CLASSES = {op.name: op for op in shard.Shard.operations}


@dataclass(frozen=True)
class ConvertMeshToShardPass(ModulePass):
    """Turns the ops of the older mesh dialect into shard's.

    Needs: any module. Guarantees: no mesh op is left; everything else is not touched.
    """

    name = "convert-mesh-to-shard"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        convert_mesh_to_shard(op)


def convert_mesh_to_shard(module: ModuleOp) -> None:
    """Replaces the mesh dialect's ops in `module` by shard's."""
    shardings: dict[tuple[Block, MeshSharding], shard.ShardingOp] = {}
    for op in list(module.walk()):
        if isinstance(op, mesh.ShardOp):
            new = _convert_shard(op, shardings)
        elif op.name.startswith("mesh."):
            new = _convert(op)
        else:
            continue
        block = op.parent
        assert block is not None
        block.insert_op_before(new, op)
        new.location = op.location
        for old, result in zip(op.results, new.results, strict=True):
            result.name_hint = old.name_hint
            old.replace_all_uses_with(result)
        op.detach()
        op.erase()


def _convert_shard(
    op: mesh.ShardOp, shardings: dict[tuple[Block, MeshSharding], shard.ShardingOp]
) -> Operation:
    block = op.parent
    assert block is not None
    spec = op.shard.data
    definition = shardings.get((block, spec))
    if definition is None:
        definition = shard.ShardingOp.build(
            operands=[[], []],
            properties={
                "grid": SymbolRefAttr(spec.mesh),
                "split_axes": ShardAxesArrayAttr(
                    ArrayAttr([shard.axes_attr(dim) for dim in spec.split_axes])
                ),
            },
            result_types=[ShardingType()],
        )
        if spec.partial_axes:
            definition.attributes[PARTIAL] = StringAttr(
                f"{spec.partial_kind}{list(spec.partial_axes)}"
            )
        definition.location = op.location
        block.insert_op_before(definition, op)
        shardings[(block, spec)] = definition
    new = shard.ShardOp(op.src, definition.result, op.annotate_for_users)
    new.attributes.update(op.attributes)
    return new


def _convert(op: Operation) -> Operation:
    kind = _CLASSES[_NAMES.get(op.name) or op.name.replace("mesh.", "shard.", 1)]
    properties: dict[str, Attribute] = {}
    for name, attr in op.properties.items():
        if isinstance(attr, PartialAttr):
            attr = ReductionKindAttr(attr.data)
        properties[_PROPERTIES.get(name, name)] = attr
    return kind.create(
        operands=list(op.operands),
        result_types=[result.type for result in op.results],
        properties=properties,
        attributes=op.attributes,
    )
