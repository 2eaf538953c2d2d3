"""The dialect `shard` as upstream MLIR (LLVM 22) has it, and `shard.permute`.

xDSL's classes are used where it has the op, with verifiers added; the ops that it lacks stand here.
mlir-opt (LLVM 22) reads what this prints and the other way round, but for `shard.permute`, which
upstream does not have. Semantics: https://mlir.llvm.org/docs/Dialects/Shard/

Grid axes are integers. The names of a grid's axes are the discardable attribute `axis_names`
of `shard.grid`; where they are absent the axes are called "0", "1", ….
"""

from xdsl.dialects.shard import (
    CollectiveCommunicationOp,
    ReductionKind,
    ReductionKindAttr,
    ShardAxesArrayAttr,
    ShardAxesAttr,
    ShardingType,
)
from xdsl.ir import Dialect

from .annotations import (
    GetShardingOp,
    GridShapeOp,
    NeighborsLinearIndicesOp,
    ProcessLinearIndexOp,
    ProcessMultiIndexOp,
    ShardingOp,
    ShardOp,
    ShardShapeOp,
    named_dims,
)
from .collectives import (
    AllGatherOp,
    AllReduceOp,
    AllSliceOp,
    AllToAllOp,
    BroadcastOp,
    GatherOp,
    PermuteOp,
    RecvOp,
    ReduceOp,
    ReduceScatterOp,
    ScatterOp,
    SendOp,
    ShiftOp,
    UpdateHaloOp,
    make_collective,
)
from .grids import (
    AXIS_NAMES,
    GridOp,
    adopt_xdsl_ops,
    axes_attr,
    find_grid,
    grid_of,
    grid_ops,
    make_grid_op,
    user_grid,
)

__all__ = [
    "AXIS_NAMES",
    "AllGatherOp",
    "AllReduceOp",
    "AllSliceOp",
    "AllToAllOp",
    "BroadcastOp",
    "CollectiveCommunicationOp",
    "GatherOp",
    "GetShardingOp",
    "GridOp",
    "GridShapeOp",
    "NeighborsLinearIndicesOp",
    "PermuteOp",
    "ProcessLinearIndexOp",
    "ProcessMultiIndexOp",
    "RecvOp",
    "ReduceOp",
    "ReduceScatterOp",
    "ReductionKind",
    "ReductionKindAttr",
    "ScatterOp",
    "SendOp",
    "Shard",
    "ShardAxesArrayAttr",
    "ShardAxesAttr",
    "ShardOp",
    "ShardShapeOp",
    "ShardingOp",
    "ShardingType",
    "ShiftOp",
    "UpdateHaloOp",
    "adopt_xdsl_ops",
    "axes_attr",
    "find_grid",
    "grid_of",
    "grid_ops",
    "make_collective",
    "make_grid_op",
    "named_dims",
    "user_grid",
]

Shard = Dialect(
    "shard",
    [
        AllGatherOp,
        AllReduceOp,
        AllSliceOp,
        AllToAllOp,
        BroadcastOp,
        GatherOp,
        GetShardingOp,
        GridOp,
        GridShapeOp,
        NeighborsLinearIndicesOp,
        PermuteOp,
        ProcessLinearIndexOp,
        ProcessMultiIndexOp,
        RecvOp,
        ReduceOp,
        ReduceScatterOp,
        ScatterOp,
        SendOp,
        ShardOp,
        ShardShapeOp,
        ShardingOp,
        ShiftOp,
        UpdateHaloOp,
    ],
    [ReductionKindAttr, ShardAxesArrayAttr, ShardingType],
)
