"""The most memory that a partitioned program has in use on one device.

    arguments + results that no donated argument holds + the most temporaries at any time

as XLA counts it (arguments + outputs + temporaries - aliased). Temporaries are the kept values of
`fusion.py`, from where they are computed to where they are read last, in program order, with what
XLA's buffer assignment and scheduling do:

- an elementwise op, and an update in place, write over an operand that dies there;
- results of the program are written where they stay, values that a loop carries over its carry;
- all_reduces over the same axes that do not need each other are made one (XLA's combiner): what
  they reduce waits for the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from autopar.dialects.autopar import aliases
from autopar.dialects.stablehlo.attributes import ConvDimensionNumbers
from autopar.dialects.tensors import num_bytes

from .fusion import BODIES, DOTS, Fusion, is_elementwise, updates_in_place
from .merging import merged_steps


@dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    arguments: int
    results: int
    """Of results that no donated argument holds."""
    temporaries: int
    """The most at any time."""

    @property
    def peak(self) -> int:
        return self.arguments + self.results + self.temporaries


def main_of(module: ModuleOp) -> FuncOp:
    """The function @main, which every partitioned module has."""
    return next(op for op in module.ops if isinstance(op, FuncOp) and op.sym_name.data == "main")


FusionOf = Callable[[Block], Fusion]


def memory_of(module: ModuleOp, fusion_of: FusionOf = Fusion) -> Memory:
    """The memory of `@main` of a partitioned module, for one device."""
    func = main_of(module)
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


@dataclass(eq=False)
class Buffer:
    """Memory of a value, or of several in turn that write over each other."""

    values: list[SSAValue]
    """In the order in which they are written; none: a copy."""
    size: int
    first: int
    last: int
    """In use at the times first <= t <= last."""
    operand: tuple[Operation, int] | None = None
    """Of a copy that an op makes for itself: the op, and which operand."""


@dataclass
class Timeline:
    """What is in memory while a block runs, beside its arguments and results."""

    buffers: list[Buffer] = field(default_factory=list[Buffer])
    times: dict[Operation, int] = field(default_factory=dict[Operation, int])
    """When an op runs; bodies of ops after these."""
    end: int = 0
    """All times are below."""


def timeline_of(block: Block, fusion_of: FusionOf = Fusion) -> Timeline:
    """The temporaries of a block, and of the bodies inside it; `fusion_of` gives their fusions."""
    timeline = Timeline()
    _add_block(timeline, block, fusion_of)
    return timeline


def _add_block(timeline: Timeline, block: Block, fusion_of: FusionOf) -> None:
    fusion = fusion_of(block)
    schedule = _Schedule(fusion)
    begins: list[int] = []
    ends: list[int] = []
    for writers in schedule.writers:
        begins.append(timeline.end)
        timeline.end += 1
        for op in writers:
            timeline.times[op] = begins[-1]
            _add_inside(timeline, op, fusion_of)
        ends.append(timeline.end - 1)
    for buffer in _buffers(block, fusion, schedule):
        buffer.first, buffer.last = begins[buffer.first], ends[min(buffer.last, len(ends) - 1)]
        timeline.buffers.append(buffer)


def _buffers(block: Block, fusion: Fusion, schedule: _Schedule) -> Iterable[Buffer]:
    """Those of the block's own values, by places of the schedule."""
    elsewhere = _results_in_place(fusion, block)
    buffers: dict[SSAValue, Buffer] = {}
    for place, writers in enumerate(schedule.writers):
        dying = [
            value
            for value in schedule.reads[place]
            if value in buffers and buffers[value].last == place
        ]
        for op in writers:
            for value in fusion.written(op):
                last = schedule.last_read.get(value, place)
                if value in elsewhere:
                    argument = elsewhere[value]
                    if argument is None or schedule.last_read.get(argument, -1) <= place:
                        continue
                    last = len(schedule.writers)
                over = _overwritten(fusion, op, value, dying, buffers)
                if over is None or len(writers) > 1:
                    buffers[value] = Buffer([value], num_bytes(value.type), place, last)
                else:
                    dying.remove(over)
                    buffers[value] = buffers[over]
                    buffers[value].last = last
                    buffers[value].values.append(value)
    return [*dict.fromkeys(buffers.values()), *schedule.joined]


class _Schedule:
    """What is read and written at each place of a block.

    Collectives that are lowered as one first join their operands in a buffer (a place of its own),
    and their results are parts of another: what computes with a part reads it there, others (dots)
    get a copy.
    """

    def __init__(self, fusion: Fusion) -> None:
        self.reads: list[dict[SSAValue, float]] = []
        self.writers: list[list[Operation]] = []
        """The ops that write their results at a place."""
        self.joined: list[Buffer] = []
        self.last_read: dict[SSAValue, int] = {}
        parts: list[list[SSAValue]] = []
        for step in merged_steps(fusion.ops):
            joins = [unit for unit in step if len(unit) > 1]
            if joins:
                self._add(fusion, [op for unit in joins for op in unit], [])
                place = len(self.writers)
                for unit in joins:
                    size = sum(num_bytes(value.type) for op in unit for value in op.operands)
                    self.joined.append(Buffer([], size, place - 1, place))
                    parts.append([value for op in unit for value in op.results])
            ops = [op for unit in step for op in unit]
            self._add(fusion, [unit[0] for unit in step if len(unit) == 1], ops)
        self.last_read = {
            value: place for place, values in enumerate(self.reads) for value in values
        }
        self._add_copies({value for group in parts for value in group})
        for group in parts:  # the buffer of the parts lives until the last of them is read
            last = max((self.last_read.get(value, 0) for value in group), default=0)
            self.last_read.update((value, last) for value in group if value in self.last_read)

    def _add(self, fusion: Fusion, readers: list[Operation], writers: list[Operation]) -> None:
        read = (fusion.reads(op).items() for op in readers)
        self.reads.append({value: size for items in read for value, size in items})
        self.writers.append(writers)

    def _add_copies(self, parts: set[SSAValue]) -> None:
        """Copies the parts that dots read, from the first to the last of these."""
        copied: dict[SSAValue, Buffer] = {}
        for place, values in enumerate(self.reads):
            if any(op.name in DOTS for op in self.writers[place]):
                for value in parts & values.keys():
                    size = num_bytes(value.type)
                    copied.setdefault(value, Buffer([], size, place, place)).last = place
        self.joined += copied.values()


def _add_inside(timeline: Timeline, op: Operation, fusion_of: FusionOf) -> None:
    """Adds what is inside an op: bodies of loops and branches, copies that a convolution makes."""
    if op.name in BODIES:
        for region in op.regions:
            _add_block(timeline, region.block, fusion_of)
    elif op.name == "stablehlo.convolution":
        now = timeline.end - 1
        for index in _transposed(op):
            size = num_bytes(op.operands[index].type)
            timeline.buffers.append(Buffer([], size, now, now, (op, index)))


def _transposed(convolution: Operation) -> list[int]:
    """The operands that are copied into the order of dimensions that convolutions want:
    batch, space, feature, and for kernels space, input, output feature (XLA:CPU's
    `ConvCanonicalization`; the gradients of convolutions have other ones)."""
    numbers = convolution.properties["dimension_numbers"]
    assert isinstance(numbers, ConvDimensionNumbers)
    spatial = list(numbers.input_spatial_dimensions)
    lhs = [numbers.input_batch_dimension, *spatial, numbers.input_feature_dimension]
    rhs = [
        *numbers.kernel_spatial_dimensions,
        numbers.kernel_input_feature_dimension,
        numbers.kernel_output_feature_dimension,
    ]
    return [index for index, order in enumerate((lhs, rhs)) if order != sorted(order)]


def _results_in_place(fusion: Fusion, block: Block) -> dict[SSAValue, SSAValue | None]:
    """The values that a block returns, which are written where they stay, and what lies there
    before: in a loop's body the carried argument, which must not be needed any more."""
    last = block.last_op
    if last is None:
        return {}
    parent = block.parent_op()
    is_loop = parent is not None and parent.name == "stablehlo.while"
    found: dict[SSAValue, SSAValue | None] = {}
    for index, operand in enumerate(last.operands):
        value = fusion.name(operand)
        if value is not None and not isinstance(value, BlockArgument):
            carried = is_loop and len(block.args) == len(last.operands)
            found[value] = block.args[index] if carried else None
    return found


def _overwritten(
    fusion: Fusion,
    op: Operation,
    value: SSAValue,
    dying: Sequence[SSAValue],
    buffers: dict[SSAValue, Buffer],
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
    return next((v for v in found if buffers[v].size == size), None)


def _carried(loop: Operation, result: SSAValue) -> list[SSAValue]:
    """What a loop starts from where it gives `result`."""
    pairs = zip(loop.operands, loop.results, strict=True)
    return [operand for operand, value in pairs if value is result]


def _peak(timeline: Timeline) -> int:
    """The most bytes in use at any time."""
    change = [0] * (timeline.end + 1)
    for buffer in timeline.buffers:
        change[buffer.first] += buffer.size
        change[buffer.last + 1] -= buffer.size
    return max(accumulate(change))
