"""Communication between devices, and a device's own number."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    IntegerAttr,
    IntegerType,
    Signedness,
    TensorType,
    UnitAttr,
    i64,
)
from xdsl.ir import Attribute, Operation, Region, SSAValue
from xdsl.irdl import (
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import NoMemoryEffect, Pure, RecursiveMemoryEffect

from ..traits import Collective
from .attributes import ChannelHandle
from .base import AnyTensor, StableHLOOp, check, irdl_op_definition, shape_of

ui32 = IntegerType(32, Signedness.UNSIGNED)


def groups_attr(groups: Sequence[Sequence[int]]) -> DenseIntOrFPElementsAttr:
    """Replica groups or source/target pairs: a rank-2 i64 tensor."""
    columns = len(groups[0]) if groups else 0
    assert all(len(group) == columns for group in groups), "groups must have one size"
    type = TensorType(i64, [len(groups), columns])
    return DenseIntOrFPElementsAttr.from_list(type, [x for group in groups for x in group])


def _check_pairs(op: StableHLOOp, values: Sequence[SSAValue], results: Sequence[SSAValue]):
    check(
        len(values) == len(results),
        op,
        f"has {len(values)} operands and {len(results)} results",
    )


Groups = Sequence[Sequence[int]] | DenseIntOrFPElementsAttr
"""The devices that exchange data with each other, or the attribute that many ops share."""


def _as_attr(groups: Groups) -> DenseIntOrFPElementsAttr:
    return groups if isinstance(groups, DenseIntOrFPElementsAttr) else groups_attr(groups)


def _group_properties(groups: Groups, channel: ChannelHandle | None) -> dict[str, Attribute]:
    """What says which devices exchange data; with a channel, ids are those of devices."""
    if channel is None:
        return {"replica_groups": _as_attr(groups)}
    return {
        "replica_groups": _as_attr(groups),
        "channel_handle": channel,
        "use_global_device_ids": _UNIT,
    }


_UNIT = UnitAttr()


@lru_cache(maxsize=1000)
def _i64_attr(value: int) -> IntegerAttr[IntegerType]:
    return IntegerAttr(value, i64)


# The ops that partitioning makes by the thousand are built by Operation's own constructor: that of
# xDSL's declarations sorts operands and results into their groups first, several times as slow.


@irdl_op_definition
class AllReduceOp(StableHLOOp):
    """Each device of a group gets the combination of all their operands."""

    name = "stablehlo.all_reduce"

    operands_ = var_operand_def(AnyTensor)
    replica_groups = prop_def(Attribute)
    channel_handle = opt_prop_def(ChannelHandle)
    use_global_device_ids = opt_prop_def(UnitAttr)
    computation = region_def("single_block")
    results_ = var_result_def(AnyTensor)

    traits = traits_def(RecursiveMemoryEffect(), Collective())

    def __init__(
        self,
        operands: Sequence[SSAValue],
        groups: Groups,
        computation: Region,
        channel: ChannelHandle | None = None,
    ):
        Operation.__init__(
            self,
            operands=operands,
            properties=_group_properties(groups, channel),
            regions=[computation],
            result_types=[value.type for value in operands],
        )

    def verify_(self) -> None:
        _check_pairs(self, self.operands_, self.results_)


@irdl_op_definition
class AllGatherOp(StableHLOOp):
    """Each device of a group gets all their operands one after another along a dimension."""

    name = "stablehlo.all_gather"

    operands_ = var_operand_def(AnyTensor)
    all_gather_dim = prop_def(IntegerAttr)
    replica_groups = prop_def(Attribute)
    channel_handle = opt_prop_def(ChannelHandle)
    use_global_device_ids = opt_prop_def(UnitAttr)
    results_ = var_result_def(AnyTensor)

    traits = traits_def(NoMemoryEffect(), Collective())

    def __init__(
        self,
        operands: Sequence[SSAValue],
        dimension: int,
        groups: Groups,
        result_types: Sequence[Attribute],
        channel: ChannelHandle | None = None,
    ):
        Operation.__init__(
            self,
            operands=operands,
            properties={
                "all_gather_dim": _i64_attr(dimension),
                **_group_properties(groups, channel),
            },
            result_types=result_types,
        )

    def verify_(self) -> None:
        _check_pairs(self, self.operands_, self.results_)
        dim = self.all_gather_dim.value.data
        for value in self.operands_:
            rank = len(shape_of(value.type))
            check(0 <= dim < rank, self, f"has all_gather_dim = {dim} for {value.type}")


@irdl_op_definition
class ReduceScatterOp(StableHLOOp):
    """Each device of a group gets its part, along a dimension, of the combined operands."""

    name = "stablehlo.reduce_scatter"

    operand = operand_def(AnyTensor)
    scatter_dimension = prop_def(IntegerAttr)
    replica_groups = prop_def(Attribute)
    channel_handle = opt_prop_def(ChannelHandle)
    use_global_device_ids = opt_prop_def(UnitAttr)
    computation = region_def("single_block")
    result = result_def(AnyTensor)

    traits = traits_def(RecursiveMemoryEffect(), Collective())

    def __init__(
        self,
        operand: SSAValue,
        dimension: int,
        groups: Groups,
        computation: Region,
        result_type: Attribute,
        channel: ChannelHandle | None = None,
    ):
        Operation.__init__(
            self,
            operands=[operand],
            properties={
                "scatter_dimension": _i64_attr(dimension),
                **_group_properties(groups, channel),
            },
            regions=[computation],
            result_types=[result_type],
        )


@irdl_op_definition
class AllToAllOp(StableHLOOp):
    """Splits the operand along a dimension, sends part i to device i, joins along another."""

    name = "stablehlo.all_to_all"

    operands_ = var_operand_def(AnyTensor)
    split_dimension = prop_def(IntegerAttr)
    concat_dimension = prop_def(IntegerAttr)
    split_count = prop_def(IntegerAttr)
    replica_groups = prop_def(Attribute)
    channel_handle = opt_prop_def(ChannelHandle)
    results_ = var_result_def(AnyTensor)

    traits = traits_def(NoMemoryEffect(), Collective())

    def __init__(
        self,
        operand: SSAValue,
        split_dimension: int,
        concat_dimension: int,
        groups: Sequence[Sequence[int]],
        result_type: Attribute,
        channel: ChannelHandle | None = None,
    ):
        super().__init__(
            operands=[[operand]],
            properties={
                "split_dimension": IntegerAttr(split_dimension, i64),
                "concat_dimension": IntegerAttr(concat_dimension, i64),
                "split_count": IntegerAttr(len(groups[0]), i64),
                "replica_groups": groups_attr(groups),
                "channel_handle": channel,
            },
            result_types=[[result_type]],
        )

    def verify_(self) -> None:
        _check_pairs(self, self.operands_, self.results_)


@irdl_op_definition
class CollectivePermuteOp(StableHLOOp):
    """Sends the operand from sources to targets; who receives nothing gets zeros."""

    name = "stablehlo.collective_permute"

    operand = operand_def(AnyTensor)
    source_target_pairs = prop_def(Attribute)
    channel_handle = opt_prop_def(ChannelHandle)
    result = result_def(AnyTensor)

    traits = traits_def(NoMemoryEffect(), Collective())

    def __init__(
        self,
        operand: SSAValue,
        pairs: Sequence[Sequence[int]],
        channel: ChannelHandle | None = None,
    ):
        super().__init__(
            operands=[operand],
            properties={
                "source_target_pairs": groups_attr(pairs),
                "channel_handle": channel,
            },
            result_types=[operand.type],
        )


@irdl_op_definition
class CollectiveBroadcastOp(StableHLOOp):
    """Each device of a group gets the first one's operand."""

    name = "stablehlo.collective_broadcast"

    operand = operand_def(AnyTensor)
    replica_groups = prop_def(Attribute)
    channel_handle = opt_prop_def(ChannelHandle)
    has_dynamic_root = opt_prop_def(UnitAttr)
    """From jaxlib 0.11 on."""
    result = result_def(AnyTensor)

    traits = traits_def(NoMemoryEffect(), Collective())


@irdl_op_definition
class CollectiveReduceOp(StableHLOOp):
    """The first device of a group gets all their operands combined (from jaxlib 0.11 on)."""

    name = "stablehlo.collective_reduce"

    operands_ = var_operand_def(AnyTensor)
    replica_groups = prop_def(Attribute)
    channel_handle = opt_prop_def(ChannelHandle)
    use_global_device_ids = opt_prop_def(UnitAttr)
    has_dynamic_root = opt_prop_def(UnitAttr)
    computation = region_def()
    results_ = var_result_def(AnyTensor)

    traits = traits_def(NoMemoryEffect(), Collective())


@irdl_op_definition
class CrossReplicaSumOp(StableHLOOp):
    """Sum over a group (deprecated form of all_reduce)."""

    name = "stablehlo.cross-replica-sum"

    operand = operand_def(AnyTensor)
    replica_groups = prop_def(Attribute)
    result = result_def(AnyTensor)

    traits = traits_def(NoMemoryEffect(), Collective())


@irdl_op_definition
class ReplicaIdOp(StableHLOOp):
    """The number of this replica."""

    name = "stablehlo.replica_id"

    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def __init__(self):
        super().__init__(result_types=[TensorType(ui32, [])])


@irdl_op_definition
class PartitionIdOp(StableHLOOp):
    """The number of this partition."""

    name = "stablehlo.partition_id"

    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def __init__(self):
        super().__init__(result_types=[TensorType(ui32, [])])


OPERATIONS = [
    AllReduceOp,
    AllGatherOp,
    ReduceScatterOp,
    AllToAllOp,
    CollectivePermuteOp,
    CollectiveBroadcastOp,
    CollectiveReduceOp,
    CrossReplicaSumOp,
    ReplicaIdOp,
    PartitionIdOp,
]

COLLECTIVES = frozenset(op.name for op in OPERATIONS if op.has_trait(Collective))
"""The names of the ops that every device of a group must reach."""
