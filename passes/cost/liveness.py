"""The most memory that a partitioned program has in use on one device.

    arguments + results that no donated argument holds + the room that temporaries take

as XLA counts it (arguments + outputs + temporaries - aliased). Temporaries are the kept values of
`fusion.py`, from where they are computed to where they are read last, in the order of `order.py`,
with the copies of `schedule.py` and what XLA's buffer assignment does:

- an elementwise op, and an update in place, write over an operand that dies there;
- results of the program are written where they stay, values that a loop carries over its carry;
- what is done with before a donated argument's result is written lies in the argument's memory,
  once the argument is read no more; where it may still be, XLA copies it;
- all_reduces over the same axes that do not need each other are made one (XLA's combiner): what
  they reduce waits for the last of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, SSAValue

from autopar.dialects.autopar import aliases
from autopar.dialects.tensors import num_bytes
from autopar.passes.entry import main_function

from .fusion import Fusion
from .handover import may_write_over
from .op_kinds import BODIES, is_elementwise, updates_in_place
from .order import RunOrder
from .packing import Span, packed
from .schedule import Buffer, Schedule


@dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    arguments: int
    results: int
    """Of results that no donated argument holds."""
    temporaries: int
    """As they are packed."""

    @property
    def peak(self) -> int:
        return self.arguments + self.results + self.temporaries


FusionOf = Callable[[Block], Fusion]


def memory_of(module: ModuleOp, fusion_of: FusionOf = Fusion) -> Memory:
    """The memory of `@main` of a partitioned module, for one device."""
    func = main_function(module)
    block = func.body.block
    last = block.last_op
    assert last is not None, "a function ends with a return"
    donated = {result for _, result in aliases(func)}
    fresh = [v for i, v in enumerate(last.operands) if i not in donated]
    return Memory(
        sum(num_bytes(arg.type) for arg in block.args),
        sum(num_bytes(value.type) for value in fresh),
        _peak(timeline_of(block, fusion_of)),
    )


@dataclass
class Timeline:
    """What is in memory while a block runs, beside its arguments and results."""

    buffers: list[Buffer] = field(default_factory=list[Buffer])
    times: dict[Operation, int] = field(default_factory=dict[Operation, int])
    """When an op runs; bodies of ops after these."""
    copies: list[Buffer] = field(default_factory=list[Buffer])
    """Of donated arguments whose memory a result takes while they are still needed."""
    handed_on: set[SSAValue] = field(default_factory=set[SSAValue])
    """Those of them that are copied whatever waits: they are returned at other places, others take
    theirs, or loops carry them."""
    free: list[Buffer] = field(default_factory=list[Buffer])
    """The memory of donated arguments, while nothing of theirs is in it."""
    end: int = 0
    """All times are below."""
    orders: dict[Block, RunOrder] = field(default_factory=dict[Block, RunOrder])
    """In which each block runs."""


def timeline_of(block: Block, fusion_of: FusionOf = Fusion) -> Timeline:
    """The temporaries of a block, and of the bodies inside it; `fusion_of` gives their fusions."""
    timeline = Timeline()
    _add_block(timeline, block, fusion_of)
    return timeline


def _add_block(timeline: Timeline, block: Block, fusion_of: FusionOf) -> None:
    fusion = fusion_of(block)
    schedule = Schedule(fusion)
    timeline.orders[block] = schedule.order
    begins: list[int] = []
    ends: list[int] = []
    for writers in schedule.writers:
        begins.append(timeline.end)
        timeline.end += 1
        for op in writers:
            timeline.times[op] = begins[-1]
            _add_inside(timeline, op, fusion_of)
        ends.append(timeline.end - 1)
    buffers = _buffers(block, fusion, schedule)
    for buffer in chain(buffers, schedule.copies, schedule.free):
        buffer.first, buffer.last = begins[buffer.first], ends[min(buffer.last, len(ends) - 1)]
    timeline.buffers += buffers
    timeline.copies += schedule.copies
    timeline.free += schedule.free
    handover = schedule.order.handover
    is_body = block.parent_op() is not None and not isinstance(block.parent_op(), FuncOp)
    timeline.handed_on |= handover.copied if is_body else handover.returned | handover.late


def _buffers(block: Block, fusion: Fusion, schedule: Schedule) -> list[Buffer]:
    """Those of the block's own values, by places of the schedule."""
    elsewhere = _results(fusion, block)
    buffers: dict[SSAValue, Buffer] = {}
    copies = {argument: buffer for buffer in schedule.copies for argument in buffer.values}
    held = ChainMap(buffers, copies)
    for place, writers in enumerate(schedule.writers):
        dying = [
            value for value in schedule.reads[place] if value in held and held[value].last == place
        ]
        for op in writers:
            for value in fusion.written(op):
                last = max(place, schedule.last_read.get(value, place))
                if value in elsewhere:
                    if value not in schedule.beside:
                        continue
                    last = max(last, schedule.beside[value])
                over = _overwritten(fusion, op, value, dying, held)
                if over is not None and over in copies and len(writers) == 1:
                    copies.pop(over).last -= 1
                    over = None
                if over is None or len(writers) > 1:
                    buffers[value] = Buffer([value], num_bytes(value.type), place, last)
                else:
                    dying.remove(over)
                    buffers[value] = buffers[over]
                    buffers[value].last = last
                    buffers[value].values.append(value)
    return [*dict.fromkeys(buffers.values()), *schedule.extra]


def _add_inside(timeline: Timeline, op: Operation, fusion_of: FusionOf) -> None:
    """Adds the bodies of loops and branches."""
    if op.name in BODIES:
        for region in op.regions:
            _add_block(timeline, region.block, fusion_of)


def _results(fusion: Fusion, block: Block) -> set[SSAValue | None]:
    """The values that a block returns, which are written where they stay."""
    return set() if block.last_op is None else set(map(fusion.name, block.last_op.operands))


def _overwritten(
    fusion: Fusion,
    op: Operation,
    value: SSAValue,
    dying: Sequence[SSAValue],
    buffers: Mapping[SSAValue, Buffer],
) -> SSAValue | None:
    """The value that dies where `value` is written, and whose memory it takes."""
    if op.name == "stablehlo.while":
        candidates = [fusion.name(carried) for carried in _carried(op, value)]
    elif updates_in_place(op):
        candidates = [fusion.name(op.operands[0])]
    elif is_elementwise(op):
        candidates = dying
    else:
        return None
    size = num_bytes(value.type)
    found = (v for v in candidates if v is not None and v in dying)
    fits = (v for v in found if buffers[v].size == size)
    return next((v for v in fits if may_write_over(fusion, value, v)), None)


def _carried(loop: Operation, result: SSAValue) -> list[SSAValue]:
    """What a loop starts from where it gives `result`."""
    pairs = zip(loop.operands, loop.results, strict=True)
    return [operand for operand, value in pairs if value is result]


def _peak(timeline: Timeline) -> int:
    """The bytes that all buffers take."""
    change = [0] * (timeline.end + 1)
    spans: list[Span] = []
    for buffer in beside_arguments(timeline):
        change[buffer.first] += buffer.size
        change[buffer.last + 1] -= buffer.size
        spans.append(Span(buffer.size, buffer.first, buffer.last))
    return packed(spans, max(accumulate(change)))


def beside_arguments(timeline: Timeline) -> Iterator[Buffer]:
    """The buffers for which there is no room in the memory of donated arguments."""
    return (buffer for buffer, room in in_rooms(timeline) if room is None)


def in_rooms(timeline: Timeline) -> Iterator[tuple[Buffer, Buffer | None]]:
    """Each buffer with the memory of a donated argument that it lies in, if any: it is given to the
    largest first, each into the smallest room (XLA's buffer assignment)."""
    rooms = [(room, list[Buffer]()) for room in sorted(timeline.free, key=lambda room: room.size)]
    sizes = [room.size for room, _ in rooms]
    for buffer in sorted((*timeline.buffers, *timeline.copies), key=lambda buffer: -buffer.size):
        for room, held in rooms[bisect_left(sizes, buffer.size) :]:
            over = bool(buffer.values) and buffer.values[-1] in room.over
            if room.first <= buffer.first and buffer.last <= room.last + over:
                if all(buffer.last < one.first or one.last < buffer.first for one in held):
                    held.append(buffer)
                    yield buffer, room
                    break
        else:
            yield buffer, None
