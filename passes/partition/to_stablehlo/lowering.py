"""What lowering an op needs: the grid's groups, channels, and this device's coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from xdsl.dialects.builtin import (
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    IntegerType,
    i32,
)
from xdsl.ir import Attribute, Block, Operation, SSAValue

from autopar.dialects import stablehlo
from autopar.dialects.constants import splat_attr
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.sharding import Axes, AxisRef, Grid
from autopar.dialects.stablehlo import ChannelHandle
from autopar.dialects.stablehlo.collectives import groups_attr
from autopar.dialects.stablehlo.elementwise import convert
from autopar.dialects.tensors import ranked_tensor

Form = Literal["replica", "partition"]


@lru_cache(maxsize=1000)
def _scalar(value: int, type: IntegerType) -> DenseIntOrFPElementsAttr[Any]:
    return splat_attr(value, ranked_tensor(type, ()))


@dataclass
class DeviceLowering:
    """What the lowerings of one module share: its grid, its form, and what was made already."""

    grid: Grid
    form: Form
    channel: int
    """The next channel handle that is free."""
    indices: dict[tuple[Block, Axes], SSAValue] = field(
        default_factory=dict[tuple[Block, Axes], SSAValue]
    )
    """The device's index along axes (none: along the whole grid), made once a block."""
    groups_of: dict[tuple[int, ...], list[list[int]]] = field(
        default_factory=dict[tuple[int, ...], list[list[int]]]
    )
    """The device groups of axes by number."""
    group_attrs: dict[tuple[int, ...], DenseIntOrFPElementsAttr] = field(
        default_factory=dict[tuple[int, ...], DenseIntOrFPElementsAttr]
    )
    """The same as attributes of collectives."""
    axes_of: dict[int, tuple[tuple[int, ...], Attribute]] = field(
        default_factory=dict[int, tuple[tuple[int, ...], Attribute]]
    )
    """The axes that an attribute names, by its identity, and the attribute."""

    def axes(self, op: Operation) -> tuple[int, ...]:
        """The grid axes of a collective, by number; DiagnosticError where the grid lacks one."""
        attr = op.properties["grid_axes"]
        known = self.axes_of.get(id(attr))
        if known is None:
            known = self.axes_of[id(attr)] = self._read_axes(op, attr), attr
        return known[0]

    def _read_axes(self, op: Operation, attr: Attribute) -> tuple[int, ...]:
        assert isinstance(attr, DenseArrayBase)
        axes: tuple[int, ...] = tuple(attr.get_values())  # pyright: ignore
        if any(not 0 <= axis < len(self.grid.axes) for axis in axes):
            raise DiagnosticError(
                op, f"'{op.name}' op: grid @{self.grid.name} has no axes {list(axes)}"
            )
        return axes

    def refs(self, axes: Sequence[int]) -> Axes:
        """Axes by name."""
        return tuple(AxisRef(self.grid.axis_names[axis]) for axis in axes)

    def groups(self, op: Operation) -> list[list[int]]:
        """The groups of devices (row-major grid ids) among which a collective runs."""
        axes = self.axes(op)
        groups = self.groups_of.get(axes)
        if groups is None:
            groups = self.groups_of[axes] = self.grid.groups(self.refs(axes))
        return groups

    def groups_attr(self, op: Operation) -> DenseIntOrFPElementsAttr:
        """The groups of a collective as its attribute."""
        axes = self.axes(op)
        attr = self.group_attrs.get(axes)
        if attr is None:
            attr = self.group_attrs[axes] = groups_attr(self.groups(op))
        return attr

    def next_channel(self) -> ChannelHandle:
        """A channel of its own: XLA merges equal collectives of one channel."""
        self.channel += 1
        return ChannelHandle(handle=self.channel - 1, type=1)

    def maybe_channel(self) -> ChannelHandle | None:
        """The channel of the ops that have one in the partition form only."""
        return self.next_channel() if self.form == "partition" else None

    def insert(self, new: Operation, before: Operation) -> SSAValue:
        """Puts an op before another, with its location; its first result."""
        assert before.parent is not None
        new.location = before.location
        before.parent.insert_op_before(new, before)
        return new.results[0]

    def make(
        self,
        kind: type[Operation],
        operands: Sequence[SSAValue],
        type: Attribute,
        before: Operation,
        **properties: Attribute,
    ) -> SSAValue:
        """An op with one result, put before another."""
        return self.insert(
            kind.create(operands=operands, result_types=[type], properties=properties), before
        )

    def replace(self, op: Operation, values: Sequence[SSAValue]) -> None:
        """Puts values in the place of an op's results."""
        for result, value in zip(op.results, values, strict=True):
            result.replace_all_uses_with(value)
        op.detach()
        op.erase()

    def constant(self, value: int, before: Operation, type: IntegerType = i32) -> SSAValue:
        """A scalar tensor of an integer type."""
        content = _scalar(value, type)
        return self.make(stablehlo.ConstantOp, [], content.type, before, value=content)

    def device_index(self, before: Operation) -> SSAValue:
        """This device's row-major index, tensor<i32>; made once a block (regions capture none)."""
        block = before.parent
        assert block is not None
        value = self.indices.get((block, ()))
        if value is None:
            kind = stablehlo.ReplicaIdOp if self.form == "replica" else stablehlo.PartitionIdOp
            first = block.first_op
            assert first is not None
            value = self.insert(convert(self.insert(kind(), first), i32), first)
            self.indices[(block, ())] = value
        return value

    def coordinate(self, axes: Axes, before: Operation) -> SSAValue:
        """This device's row-major index along `axes`, tensor<i32>."""
        block = before.parent
        assert block is not None
        axes = tuple(axis for axis in axes if self.grid.axis_size(axis) > 1)
        if not axes:
            return self.constant(0, before)
        value = self.indices.get((block, axes))
        if value is not None:
            return value
        device = self.device_index(before)
        place = device.owner.next_op  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
        assert isinstance(place, Operation)
        for axis in axes:
            part = self._axis_coordinate(device, axis, place)
            if value is not None:
                size = self.constant(self.grid.axis_size(axis), place)
                scaled = self.insert(stablehlo.MulOp(value, size), place)
                part = self.insert(stablehlo.AddOp(scaled, part), place)
            value = part
        assert value is not None
        self.indices[(block, axes)] = value
        return value

    def _axis_coordinate(self, device: SSAValue, axis: AxisRef, place: Operation) -> SSAValue:
        stride, size = self.grid.axis_stride(axis), self.grid.axis_size(axis)
        value = device
        if stride > 1:
            value = self.insert(stablehlo.DivOp(value, self.constant(stride, place)), place)
        if stride * size < self.grid.num_devices:
            value = self.insert(stablehlo.RemOp(value, self.constant(size, place)), place)
        return value
