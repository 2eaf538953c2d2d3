"""What a block reads and writes, place by place in the order in which it runs, and what is copied.

Some ops want their operands in another order of dimensions than they lie in, or apart from what
they lie among; XLA copies these first. Equal copies are made once, and held from the first reader
to the last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from itertools import chain
from math import prod

from xdsl.ir import Operation, SSAValue
from xdsl.traits import IsTerminator

from autopar.dialects.rules.access import ints
from autopar.dialects.shard import AllGatherOp, AllToAllOp
from autopar.dialects.stablehlo.attributes import ConvDimensionNumbers
from autopar.dialects.tensors import num_bytes, shape_of

from .flops import dot_numbers
from .fusion import Fusion
from .handover import may_write_over
from .op_kinds import is_cheap, is_code, reads_from_memory
from .order import RunOrder

_INDEX_BYTES = 4
"""Of the numbers of elements, which are s32."""
_Order = tuple[int, ...]
"""Of dimensions; none: as they lie, but in one piece."""


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
    over: Set[SSAValue] = frozenset()
    """Of free memory: over what it holds last the next may be written."""


class Schedule:
    """What is read and written at each place of a block.

    Collectives that are lowered as one first join their operands in a buffer (a place of its own),
    and their results are parts of another: what computes with a part reads it there, others (dots,
    loops) get a copy. So it is with what an all_to_all cuts and puts together, and with what is
    gathered along a dimension that is not the first, which comes device by device.
    """

    def __init__(self, fusion: Fusion) -> None:
        self._fusion = fusion
        self.reads: list[dict[SSAValue, float]] = []
        self.writers: list[list[Operation]] = []
        """The ops that write their results at a place."""
        self.extra: list[Buffer] = []
        """What operands are joined in, and copies."""
        self.copies: list[Buffer] = []
        """Of donated arguments."""
        self.free: list[Buffer] = []
        """Memory of donated arguments that others may use meanwhile."""
        self.beside: dict[SSAValue, int] = {}
        """The results that are not computed where they stay, and when they are copied there."""
        self._readers = Counter(chain.from_iterable(map(fusion.reads, fusion.ops)))
        self._copied_at: dict[SSAValue, int] = {}
        """When donated arguments are copied."""
        self._apart: set[SSAValue] = set()
        """Values whose elements do not lie in the order of their dimensions."""
        self._copies: dict[tuple[SSAValue, _Order], Buffer] = {}
        """In an order of dimensions, for all that want them so: equal copies are made once."""
        together: list[list[SSAValue]] = []
        self.order = order = RunOrder(fusion)
        for step in order.steps():
            if order.is_inside(step):
                self._add([], step[0])
                continue
            cut = [unit for unit in step if len(unit) > 1 or type(unit[0]) is AllToAllOp]
            for unit in cut:
                self._join(unit)
                together.append([value for op in unit for value in op.results])
            ops = [op for unit in step for op in unit]
            copied = {value for unit in step if unit not in cut for value in self._copy(unit[0])}
            for op in ops:
                self._expand(op)
            readers = [unit[0] for unit in step if unit not in cut]
            self._copy_donated(readers)
            self._add(readers, ops, copied)
            self._apart.update(value for op in ops for value in _apart(op))
            self._apart.update(*together[-len(cut) :] if cut else ())
        self.last_read = {
            value: place for place, values in enumerate(self.reads) for value in values
        }
        for group in together:  # the buffer of the parts lives until the last of them is read
            last = max((self.last_read.get(value, 0) for value in group), default=0)
            self.last_read.update((value, last) for value in group if value in self.last_read)
        self._hand_over(order)

    def _hand_over(self, order: RunOrder) -> None:
        """What is copied as results take the memory of arguments, and what of this is free
        meanwhile: from where the argument is read last, or copied, until the result is written.
        What is copied in the end is so one after the other, each when its place is free."""
        handover = order.handover
        places = {op: place for place, ops in enumerate(self.writers) for op in ops}
        last = {value: place for place, values in enumerate(self.reads[:-1]) for value in values}
        copied = self._copied_at
        written: dict[SSAValue, int] = {}
        for argument, name in handover.results.items():
            if argument in handover.late:
                for value in (name, argument):
                    if value in handover.copied and value not in self._copied_at:
                        self._copy_argument(value)
                self._add([], [])
                written[argument] = last[name] = len(self.writers) - 1
            elif isinstance(name.owner, Operation) and name.owner in places:
                written[argument] = places[name.owner]
                if argument in handover.moved:
                    free = copied.get(argument, len(self.writers))
                    free = free if argument in handover.copied else 0
                    written[argument] = self.beside[name] = max(written[argument], free)
        for argument in handover.results:
            size = num_bytes(argument.type)
            begin = last.get(argument, -1)
            if argument in copied:
                begin = copied[argument]
                if argument not in handover.as_results:
                    end = max(begin, last.get(argument, begin))
                    self.copies.append(Buffer([argument], size, begin, end))
            if begin + 1 < written.get(argument, 0):
                self.free.append(Buffer([argument], size, begin + 1, written[argument] - 1))
                if argument not in handover.moved | handover.late:
                    self.free[-1].over = self._written_over(handover.results[argument])

    def _written_over(self, result: SSAValue) -> Set[SSAValue]:
        """What is read last by what computes a result, which may be written over it."""
        assert isinstance(result.owner, Operation)
        reads = self._fusion.reads(result.owner)
        return {value for value in reads if may_write_over(self._fusion, result, value)}

    def _copy_donated(self, readers: list[Operation]) -> None:
        """Copies the arguments that are for their first readers, those first that have most."""
        wanted = self.order.handover.copied
        if wanted and not (readers and readers[0].has_trait(IsTerminator)):
            found = dict.fromkeys(value for op in readers for value in self._fusion.reads(op))
            for value in sorted(found, key=lambda value: -self._readers[value]):
                if value in wanted and value not in self._copied_at:
                    self._copy_argument(value)

    def _copy_argument(self, argument: SSAValue) -> None:
        self._copied_at[argument] = len(self.writers)
        self._add([], [])

    def _add(
        self,
        readers: list[Operation],
        writers: list[Operation],
        copied: Set[SSAValue] = frozenset(),
    ) -> None:
        read = (self._fusion.reads(op).items() for op in readers)
        self.reads.append(
            {value: size for items in read for value, size in items if value not in copied}
        )
        self.writers.append(writers)

    def _join(self, unit: list[Operation]) -> None:
        """Puts the operands of collectives into one buffer, or in an order of its own, first."""
        self._add(unit, [])
        place = len(self.writers)
        size = sum(num_bytes(value.type) for op in unit for value in op.operands)
        self.extra.append(Buffer([], size, place - 1, place))

    def _expand(self, op: Operation) -> None:
        """What XLA makes of an op in a place before it."""
        size = _expanded_bytes(op)
        if size:
            place = len(self.writers)
            self._add([], [])
            self.extra.append(Buffer([], size, place, place, (op, 0)))

    def _copy(self, op: Operation) -> Set[SSAValue]:
        """Copies what an op does not take as it lies, one after the other; gives what it need not
        read itself then."""
        if not op.results or not reads_from_memory(op):
            return set()
        found: dict[SSAValue, Buffer] = {}
        for value in [value for value in self._fusion.reads(op) if value in self._apart]:
            found[value] = self._shared_copy(value, ())
        for index, order in _moved(op).items():
            value = self._fusion.name(op.operands[index])
            if value is None or value in found or self._is_written_so(value):
                continue
            found[value] = self._shared_copy(value, order, (op, index))
        for buffer in found.values():
            buffer.last = len(self.writers)
        return found.keys()

    def _shared_copy(
        self, value: SSAValue, order: _Order, operand: tuple[Operation, int] | None = None
    ) -> Buffer:
        """The copy of a value in an order of dimensions: the one that an earlier op has made, as
        XLA drops what it computes twice."""
        if (value, order) not in self._copies:
            self._copies[value, order] = self._copied(value, operand)
        return self._copies[value, order]

    def _copied(self, value: SSAValue, operand: tuple[Operation, int] | None = None) -> Buffer:
        """A copy of a value, at a place of its own."""
        place = len(self.writers)
        maker = value.owner
        if isinstance(maker, Operation) and is_cheap(value):
            self.reads.append(self._fusion.reads(maker))
        else:
            self.reads.append({value: num_bytes(value.type)})
        self.writers.append([])
        self.extra.append(Buffer([], num_bytes(value.type), place, place, operand))
        return self.extra[-1]

    def _is_written_so(self, value: SSAValue) -> bool:
        """Whether a value is computed in the order that its only reader wants."""
        maker = value.owner
        return isinstance(maker, Operation) and is_code(maker) and self._readers[value] == 1


def _expanded_bytes(op: Operation) -> int:
    """A select_and_scatter is a reduce_window over the operand and the numbers of its elements, one
    for each dimension, and a scatter to what it selects (XLA's `SelectAndScatterExpander`)."""
    if op.name != "stablehlo.select_and_scatter":
        return 0
    operand, source, _ = op.operands
    shape = shape_of(operand.type)
    selected = (len(shape) + 1) * _INDEX_BYTES * prod(shape_of(source.type))
    return len(shape) * _INDEX_BYTES * prod(shape) + selected


def _apart(op: Operation) -> list[SSAValue]:
    """The results of an op that lie device by device rather than by dimensions."""
    if type(op) is not AllGatherOp:
        return []
    before = shape_of(op.result.type)[: op.gather_axis.value.data]
    return [op.result] if prod(before) > 1 else []


def _moved(op: Operation) -> dict[int, _Order]:
    """The operands that an op wants in another order of dimensions than they lie in, and which."""
    if op.name == "stablehlo.convolution":
        return _moved_by_convolution(op)
    return _moved_by_dot(op) if op.name == "stablehlo.dot_general" else {}


def _moved_by_dot(dot: Operation) -> dict[int, _Order]:
    """Those that `DotDecomposer` transposes, so that the left one has batch, free and contracted
    dimensions, the right one batch, contracted and free ones. Where one dimension is free and one
    contracted, the dot reads these either way."""
    numbers = dot_numbers(dot)
    sides = (
        (numbers.lhs_batching_dimensions, numbers.lhs_contracting_dimensions),
        (numbers.rhs_batching_dimensions, numbers.rhs_contracting_dimensions),
    )
    found: dict[int, _Order] = {}
    for index, (batch, contracted) in enumerate(sides):
        value = dot.operands[index]
        sizes, lies = shape_of(value.type), _lies(value)
        free = [d for d in range(len(sizes)) if d not in batch and d not in contracted]
        batches, inner, outer = (
            [lies[dim] for dim in dims if sizes[dim] != 1] for dims in (batch, contracted, free)
        )
        wanted = [batches + outer + inner, batches + inner + outer]
        if max(len(inner), len(outer)) > 1:
            wanted = wanted[index : index + 1]
        if all(order != sorted(order) for order in wanted):
            found[index] = tuple(wanted[0])
    return found


def _lies(value: SSAValue) -> list[int]:
    """The place of each dimension in what a value is read from: dots read what is transposed for
    them where it lies."""
    places = list(range(len(shape_of(value.type))))
    maker = value.owner
    while isinstance(maker, Operation) and maker.name == "stablehlo.transpose":
        permutation = ints(maker, "permutation")
        places = [permutation[place] for place in places]
        (value,) = maker.operands
        maker = value.owner
    return places


def _moved_by_convolution(convolution: Operation) -> dict[int, _Order]:
    """Those that are copied into the order of dimensions that convolutions want:
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
    return {i: tuple(order) for i, order in enumerate((lhs, rhs)) if order != sorted(order)}
