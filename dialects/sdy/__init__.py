"""The dialect `sdy` (Shardy): what JAX emits for shardings and stock XLA takes.

Attributes wrap the payload classes of `dialects/sharding.py`; text is what jaxlib prints and reads.
Specification: https://openxla.org/shardy/sdy_dialect
"""

from xdsl.ir import Dialect

from .attributes import (
    ALL_ATTRIBUTES,
    AllToAllParamListAttr,
    AxisRefListAttr,
    ListOfAxisRefListsAttr,
    ManualAxesAttr,
    Mesh,
    MeshAttr,
    OpShardingRule,
    OpShardingRuleAttr,
    TensorSharding,
    TensorShardingAttr,
    TensorShardingPerValueAttr,
)
from .ops import (
    ALL_OPS,
    AllGatherOp,
    AllReduceOp,
    AllSliceOp,
    AllToAllOp,
    CollectivePermuteOp,
    ConstantOp,
    DataFlowEdgeOp,
    FuncDataFlowEdgeOp,
    ManualComputationOp,
    MeshOp,
    NamedComputationOp,
    PropagationBarrierOp,
    PropagationDirection,
    ReduceScatterOp,
    ReplicatedToUnreducedOp,
    ReshardOp,
    ReturnOp,
    ShardedToUnreducedOp,
    ShardingConstraintOp,
    ShardingGroupOp,
)

SHARDING = "sdy.sharding"
"""Name of the attribute that holds a value's sharding."""

Sdy = Dialect("sdy", ALL_OPS, ALL_ATTRIBUTES)

__all__ = [
    "SHARDING",
    "AllGatherOp",
    "AllReduceOp",
    "AllSliceOp",
    "AllToAllOp",
    "AllToAllParamListAttr",
    "AxisRefListAttr",
    "CollectivePermuteOp",
    "ConstantOp",
    "DataFlowEdgeOp",
    "FuncDataFlowEdgeOp",
    "ListOfAxisRefListsAttr",
    "ManualAxesAttr",
    "ManualComputationOp",
    "Mesh",
    "MeshAttr",
    "MeshOp",
    "NamedComputationOp",
    "OpShardingRule",
    "OpShardingRuleAttr",
    "PropagationBarrierOp",
    "PropagationDirection",
    "ReduceScatterOp",
    "ReplicatedToUnreducedOp",
    "ReshardOp",
    "ReturnOp",
    "Sdy",
    "ShardedToUnreducedOp",
    "ShardingConstraintOp",
    "ShardingGroupOp",
    "TensorSharding",
    "TensorShardingAttr",
    "TensorShardingPerValueAttr",
]
