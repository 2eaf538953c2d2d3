"""Fetching windows of a dimension that is split in blocks over devices.

One primitive serves slice, pad, concatenate, reverse, halos of windows and convolutions, and
reshardings of padded dimensions: device d wants the elements [start_d, start_d + width) of the
global dimension. Device d's window touches at most ceil((width - 1) / L) + 1 consecutive blocks of
length L; in round r every device receives what it needs of its r-th block by a permute, so that
only the rows that some device wants travel (one row for a halo of one). Where devices want
different rows of their blocks, pieces of exact length are exchanged instead (exchange.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import TensorType
from xdsl.ir import SSAValue

from autopar.dialects.shard import AllGatherOp, PermuteOp, make_collective
from autopar.dialects.sharding import local_dim
from autopar.dialects.tensors import element_type, shape_of, tensor_type
from autopar.passes.cost.collectives import all_gather_bytes

from .exchange import Exchange, Held, Piece, Sent, Source, Transfers, cut, plan_transfers
from .local_builder import LocalBuilder
from .specs import AxisTable


def fetch_window(
    builder: LocalBuilder,
    value: SSAValue,
    dim: int,
    axes: Sequence[int],
    size: int,
    starts: Sequence[int],
    width: int,
    fill: SSAValue | None = None,
) -> SSAValue:
    """Elements [starts[d], starts[d] + width) along `dim` on each device d.

    `value` is local; `dim` has global `size` and is split over `axes` (none: whole everywhere).
    Positions outside [0, size) hold the scalar `fill`; without `fill` their content is unspecified.
    """
    type = tensor_type(value.type)
    block = type.get_shape()[dim]
    if width == 0 or 0 in type.get_shape():
        shape = list(type.get_shape())
        shape[dim] = 0
        return builder.pad(builder.empty(type, shape), dim, 0, width, fill=fill)
    held = Held(tuple(axes), size, block)
    rounds, transfers, is_gathered = _way(builder.table, held, starts, width)
    if is_gathered:
        result = _by_gather(builder, value, dim, axes, block * rounds.parts, starts, width)
    elif transfers is not None:
        source = Source(value, tuple(axes), size)
        (result,) = Exchange(builder, [source], dim, transfers).run([width])
    else:
        result = _by_permutes(builder, value, dim, rounds)
    if fill is not None and any(s < 0 or s + width > size for s in starts):
        offset = builder.per_device(starts)
        result = builder.mask(result, dim, offset, 0, size, fill)
    return result


def _way(
    table: AxisTable, held: Held, starts: Sequence[int], width: int
) -> tuple[_Rounds, Transfers | None, bool]:
    """How windows are fetched: the rounds; the transfers by which fewer rows move; whether
    gathering the whole moves no more than either."""
    rounds = _Rounds(table, held, starts, width)
    rows = rounds.rows_moved()
    if not rows:
        return rounds, None, False
    wanted = [[Piece(0, start, width, 0, 0)] for start in starts]
    transfers = plan_transfers(table, [held], wanted)
    exchanged = rows if transfers is None else transfers.rows
    is_gathered = min(rows, exchanged) >= all_gather_bytes(held.block, rounds.parts)
    # as few rows are put together without masks by rounds
    return rounds, transfers if exchanged < rows else None, is_gathered


def window_permutes(
    table: AxisTable, held: Held, starts: Sequence[int], width: int
) -> tuple[list[Sent] | None, bool]:
    """The permutes of `fetch_window`, None where it gathers the whole; and whether what they bring
    is joined with all of the block."""
    if _is_here(held, width):
        return [], False
    rounds, transfers, is_gathered = _way(table, held, starts, width)
    if is_gathered:
        return None, False
    return (rounds.permutes(), True) if transfers is None else (transfers.sent, False)


def _is_here(held: Held, width: int) -> bool:
    """Whether every device has its window: nothing of the dimension, or all of it."""
    return width <= 0 or not held.block or not held.axes


class _Rounds:
    """Who sends what to whom, round by round."""

    def __init__(self, table: AxisTable, held: Held, starts: Sequence[int], width: int) -> None:
        axes, size, block = held
        grid = table.refined
        self.parts = table.parts(axes)
        self.block = block
        self.starts = list(starts)
        self.width = width
        refs = table.axes(axes)
        strides = [(grid.axis_stride(a), grid.axis_size(a)) for a in refs]
        self.first = [s // block for s in starts]
        last = [(s + width - 1) // block for s in starts]
        self.count = max(b - a + 1 for a, b in zip(self.first, last, strict=True))
        self.pairs: list[list[tuple[int, int]]] = []
        """For each round (source device, target device)."""
        self.spans: list[tuple[int, int]] = []
        """For each round the rows of the block that some device needs."""
        for turn in range(self.count):
            pairs: list[tuple[int, int]] = []
            low, high = block, 0
            for device, start in enumerate(starts):
                part = self.first[device] + turn
                if not 0 <= part < self.parts:
                    continue
                begin = max(0, start - part * block)
                end = min(block, start + width - part * block, size - part * block)
                if begin >= end:
                    continue
                low, high = min(low, begin), max(high, end)
                source, index = device, part
                for stride, axis_size in reversed(strides):
                    coordinate = device // stride % axis_size
                    source += (index % axis_size - coordinate) * stride
                    index //= axis_size
                pairs.append((source, device))
            self.pairs.append(pairs)
            self.spans.append((low, high) if pairs else (0, 0))

    def batches(self, turn: int) -> list[list[tuple[int, int]]]:
        """The pairs of a round as permutations: each source at most once in each."""
        result: list[list[tuple[int, int]]] = []
        counts: dict[int, int] = {}
        for source, target in self.pairs[turn]:
            nth = counts.get(source, 0)
            counts[source] = nth + 1
            if nth == len(result):
                result.append([])
            result[nth].append((source, target))
        return result

    def is_local(self, turn: int) -> bool:
        return all(source == target for source, target in self.pairs[turn])

    def permutes(self) -> list[Sent]:
        """Of all rounds."""
        return [
            Sent(high - low, pairs)
            for turn, (low, high) in enumerate(self.spans)
            if not self.is_local(turn)
            for pairs in self.batches(turn)
        ]

    def rows_moved(self) -> int:
        """Rows that a device sends in all rounds."""
        return sum(sent.rows for sent in self.permutes())


def _by_permutes(builder: LocalBuilder, value: SSAValue, dim: int, rounds: _Rounds) -> SSAValue:
    grid = builder.table.refined
    pieces: list[SSAValue] = []
    for turn, (low, high) in enumerate(rounds.spans):
        piece = builder.slice(value, dim, low, high) if high else None
        if piece is not None and not rounds.is_local(turn):
            received: SSAValue | None = None
            for pairs in rounds.batches(turn):
                op = make_collective(
                    PermuteOp, piece, grid.name, range(len(grid.axes)), pairs=pairs
                )
                part = builder.insert(op)
                if received is None:
                    received = part
                else:
                    got = [any(t == d for _, t in pairs) for d in range(grid.num_devices)]
                    received = _merge(builder, got, part, received)
            piece = received
        first, last = turn == 0, turn == rounds.count - 1
        missing_low = 0 if first else low
        missing_high = 0 if last else rounds.block - high
        if piece is None:
            shape = list(shape_of(value.type))
            shape[dim] = rounds.block
            piece = builder.zeros(TensorType(element_type(value.type), shape))
            rounds.spans[turn] = (0, rounds.block)
        else:
            piece = builder.pad(piece, dim, missing_low, missing_high)
        pieces.append(piece)
    buffer = builder.concatenate(pieces, dim)
    origin = rounds.spans[0][0]
    offsets = [
        start - first * rounds.block - origin
        for start, first in zip(rounds.starts, rounds.first, strict=True)
    ]
    return cut(builder, buffer, dim, offsets, rounds.width)


def _merge(builder: LocalBuilder, got: Sequence[bool], new: SSAValue, old: SSAValue) -> SSAValue:
    """`new` on the devices that `got` it, `old` elsewhere."""
    flag = builder.compare(builder.per_device([int(g) for g in got]), "NE", builder.index(0))
    shape = shape_of(new.type)
    return builder.select(builder.broadcast(flag, shape, []), new, old)


def _by_gather(
    builder: LocalBuilder,
    value: SSAValue,
    dim: int,
    axes: Sequence[int],
    total: int,
    starts: Sequence[int],
    width: int,
) -> SSAValue:
    shape = list(shape_of(value.type))
    shape[dim] = total
    whole = builder.insert(
        make_collective(
            AllGatherOp, value, builder.table.refined.name, axes, shape, gather_axis=dim
        )
    )
    return cut(builder, whole, dim, starts, width)


def window_rows(table: AxisTable, held: Held, starts: Sequence[int], width: int) -> float:
    """The rows that a device sends for `fetch_window`, at most."""
    if _is_here(held, width):
        return 0
    rounds = _Rounds(table, held, starts, width)
    return min(rounds.rows_moved(), all_gather_bytes(held.block, rounds.parts))


def block_starts(builder: LocalBuilder, axes: Sequence[int], size: int) -> list[int]:
    """For each device the global index of the first element of its block."""
    block = local_dim(size, builder.table.parts(axes))
    return [part * block for part in builder.part_index(axes)]
