"""Exchanging pieces of split dimensions between devices, each element sent once.

A device wants pieces of some sources, put together in one or several buffers. What its own blocks
hold it takes there; every other piece is a transfer from one device to another. Permutes take the
transfers, the longest first, each device sending and receiving one in each: a permute is as long as
its longest, so that pieces of a length travel together whatever source they come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Attribute, SSAValue

from autopar.dialects.shard import PermuteOp, make_collective
from autopar.dialects.tensors import shape_of, tensor_type

from .local_builder import LocalBuilder, index_type, resized
from .specs import AxisTable

_MOST_PERMUTES = 16
"""Beyond, one all_gather is sooner done than so many messages are started."""


class Source(NamedTuple):
    """A local value, one dimension of which is split."""

    value: SSAValue
    axes: tuple[int, ...]
    size: int
    """Of the dimension, globally."""


class Piece(NamedTuple):
    """What a device wants: elements [start, start + length) of a source's dimension."""

    source: int
    start: int
    length: int
    buffer: int
    """Which of the device's buffers takes it, and where."""
    offset: int


class Held(NamedTuple):
    """A dimension as devices hold it: split over axes in blocks."""

    axes: tuple[int, ...]
    size: int
    """Globally."""
    block: int


class Transfer(NamedTuple):
    """A piece on its way."""

    length: int
    sender: int
    receiver: int
    source: int
    at: int
    """Where it begins in the sender's block."""
    buffer: int
    offset: int


class Sent(NamedTuple):
    """A permute of rows of a dimension."""

    rows: int
    pairs: Sequence[tuple[int, int]]
    """(source device, target device)."""


class Transfers(NamedTuple):
    """Who gives what to whom: to itself, and by each permute."""

    own: list[list[Transfer]]
    permutes: list[list[Transfer]]

    @property
    def rows(self) -> int:
        """What a device sends."""
        return sum(batch[0].length for batch in self.permutes)

    @property
    def sent(self) -> list[Sent]:
        """The permutes."""
        return [
            Sent(batch[0].length, [(t.sender, t.receiver) for t in batch])
            for batch in self.permutes
        ]


@dataclass
class Exchange:
    """Transfers as ops."""

    builder: LocalBuilder
    sources: Sequence[Source]
    dim: int
    transfers: Transfers

    def run(self, widths: Sequence[int]) -> list[SSAValue]:
        """The buffers of these lengths; their content is unspecified where no piece lies."""
        buffers: list[SSAValue | None] = [None] * len(widths)
        for transfers in self.transfers.own:
            for source in sorted({t.source for t in transfers}):
                taken = [t for t in transfers if t.source == source]
                value = self.sources[source].value
                self._place(buffers, widths, value, taken, {t.receiver: t.at for t in taken})
        grid = self.builder.table.refined
        for transfers in self.transfers.permutes:
            sent, starts = self._outgoing(transfers)
            pairs = sorted((t.sender, t.receiver) for t in transfers)
            got = self.builder.insert(
                make_collective(PermuteOp, sent, grid.name, range(len(grid.axes)), pairs=pairs)
            )
            at = {t.receiver: t.at - starts[t.sender] for t in transfers}
            self._place(buffers, widths, got, transfers, at)
        return [
            self.builder.neutral("sum", self._type(width)) if buffer is None else buffer
            for buffer, width in zip(buffers, widths, strict=True)
        ]

    def _type(self, width: int) -> TensorType[Attribute]:
        type = self.sources[0].value.type
        shape = list(shape_of(type))
        shape[self.dim] = width
        return resized(type, shape)

    def _outgoing(self, transfers: Sequence[Transfer]) -> tuple[SSAValue, dict[int, int]]:
        """What each device sends, and where in its block that begins."""
        builder, dim = self.builder, self.dim
        width = transfers[0].length
        result: SSAValue | None = None
        starts: dict[int, int] = {}
        for source in sorted({t.source for t in transfers}):
            value = self.sources[source].value
            last = max(0, shape_of(value.type)[dim] - width)
            own = {t.sender: min(t.at, last) for t in transfers if t.source == source}
            starts |= own
            part = cut(builder, value, dim, self._everywhere(own), width)
            result = part if result is None else self._select(own, part, result)
        assert result is not None
        return result, starts

    def _everywhere(self, some: dict[int, int]) -> list[int]:
        """A number for each device: those that have none take another's, so that they may all be
        the same."""
        other = next(iter(some.values()))
        return [some.get(d, other) for d in range(self.builder.table.refined.num_devices)]

    def _select(self, devices: Iterable[int], new: SSAValue, old: SSAValue) -> SSAValue:
        """`new` on these devices, `old` elsewhere."""
        builder, chosen = self.builder, set(devices)
        count = builder.table.refined.num_devices
        flag = builder.per_device([int(d in chosen) for d in range(count)])
        flag = builder.compare(flag, "NE", builder.index(0))
        return builder.select(builder.broadcast(flag, shape_of(new.type), []), new, old)

    def _place(
        self,
        buffers: list[SSAValue | None],
        widths: Sequence[int],
        value: SSAValue,
        transfers: Sequence[Transfer],
        at: dict[int, int],
    ) -> None:
        """Puts what begins at `at` of `value` into the buffer of each receiver."""
        for index in sorted({t.buffer for t in transfers}):
            taken = [t for t in transfers if t.buffer == index]
            starts = {t.receiver: at[t.receiver] - t.offset for t in taken}
            width, old = widths[index], buffers[index]
            new = cut(self.builder, value, self.dim, self._everywhere(starts), width)
            if old is not None:
                new = self._merged(new, old, width, taken)
            buffers[index] = new

    def _merged(
        self, new: SSAValue, old: SSAValue, width: int, taken: Sequence[Transfer]
    ) -> SSAValue:
        """`new` where the transfers lie, `old` elsewhere."""
        builder, dim = self.builder, self.dim
        count = builder.table.refined.num_devices
        if all(t.offset == 0 and t.length == width for t in taken):
            return (
                new if len(taken) == count else self._select((t.receiver for t in taken), new, old)
            )
        places = {t.receiver: (t.offset, t.offset + t.length) for t in taken}
        (low, high), *others = set(places.values())
        if len(places) == count and not others:
            pieces = [(old, 0, low), (new, low, high), (old, high, width)]
            return builder.concatenate(
                [builder.slice(v, dim, a, b) for v, a, b in pieces if a < b], dim
            )
        shape = shape_of(new.type)
        position = builder.iota(shape, dim, index_type(width))
        bounds = [[places.get(d, (0, 0))[end] for d in range(count)] for end in (0, 1)]
        lows, highs = (builder.broadcast(builder.per_device(b, width), shape, []) for b in bounds)
        inside = builder.both(
            builder.compare(position, "GE", lows), builder.compare(position, "LT", highs)
        )
        return builder.select(inside, new, old)


def plan_transfers(
    table: AxisTable, sources: Sequence[Held], wanted: Sequence[Sequence[Piece]]
) -> Transfers | None:
    """The transfers that bring each device the pieces that it wants; what lies outside of a source
    is left out. None where they take too many permutes."""
    holders = [_Holders(table, source.axes) for source in sources]
    own: list[Transfer] = []
    moved: list[Transfer] = []
    for device, pieces in enumerate(wanted):
        for piece in pieces:
            source = sources[piece.source]
            block = source.block
            begin, end = max(0, piece.start), min(source.size, piece.start + piece.length)
            while begin < end:
                part = begin // block
                upto = min(end, (part + 1) * block)
                transfer = Transfer(
                    upto - begin,
                    holders[piece.source].of(device, part),
                    device,
                    piece.source,
                    begin - part * block,
                    piece.buffer,
                    piece.offset + begin - piece.start,
                )
                (own if transfer.sender == device else moved).append(transfer)
                begin = upto
        if len(moved) > _MOST_PERMUTES * len(wanted):
            return None
    permutes = _batches(moved, _MOST_PERMUTES)
    if permutes is None:
        return None
    return Transfers(_batches(own, len(own)) or [], permutes)


class _Holders:
    """Which device holds which block, as seen from another: one that differs from it in the axes
    that split the dimension alone."""

    def __init__(self, table: AxisTable, axes: Sequence[int]) -> None:
        grid = table.refined
        self._strides = [
            (grid.axis_stride(axis), grid.axis_size(axis)) for axis in reversed(table.axes(axes))
        ]

    def of(self, device: int, part: int) -> int:
        result = device
        for stride, size in self._strides:
            result += (part % size - device // stride % size) * stride
            part //= size
        return result


def _batches(transfers: Iterable[Transfer], limit: int) -> list[list[Transfer]] | None:
    """Permutations: each device sends and receives once in each. The longest come first, and those
    to neighbours at one distance together. None where there are more than `limit`."""
    batches: list[tuple[set[int], set[int], list[Transfer]]] = []
    order = sorted(
        transfers, key=lambda t: (-t.length, t.receiver - t.sender, t.receiver, t.offset)
    )
    for transfer in order:
        sender, receiver = transfer.sender, transfer.receiver
        free = (b for b in batches if sender not in b[0] and receiver not in b[1])
        batch = next(free, None)
        if batch is None:
            if len(batches) == limit:
                return None
            batch = (set[int](), set[int](), list[Transfer]())
            batches.append(batch)
        batch[0].add(sender)
        batch[1].add(receiver)
        batch[2].append(transfer)
    return [batch for _, _, batch in batches]


def cut(
    builder: LocalBuilder, buffer: SSAValue, dim: int, offsets: Sequence[int], width: int
) -> SSAValue:
    """`buffer[offset_d : offset_d + width]`, the buffer padded where it is too short."""
    length = tensor_type(buffer.type).get_shape()[dim]
    low = max(0, -min(offsets))
    high = max(0, max(offsets) + width - length)
    buffer = builder.pad(buffer, dim, low, high)
    if len(set(offsets)) == 1:
        return builder.slice(buffer, dim, offsets[0] + low, offsets[0] + low + width)
    start = builder.per_device([offset + low for offset in offsets])
    return builder.dynamic_slice(buffer, dim, start, width)
