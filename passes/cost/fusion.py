"""Which values of a block lie in memory, under an estimate of how XLA fuses.

A value is *kept* (written to memory once, read by its users) or computed inside every op that
needs it. XLA's rules, simplified (`InstructionFusion`, of CPU and GPU alike):

- dots, convolutions, sorts, scatters, collectives, loops and all that is not listed below write
  their results; what they read is kept; a dot that sums nothing is elementwise;
- elementwise ops, broadcasts, slices, pads, concatenations … are computed inside their users, and
  so is what a reduction reads;
- an op with several users, each in another fusion, is kept where it is dear (exponential, tanh,
  division …), or where computing it again would read more bytes than its result has and a user
  also needs what is kept of those that are computed from it (a residual beside its own mean);
- what many slices, pads and the like of one fusion would each compute for themselves is kept, a
  pad or concatenation, whose code branches, where two would, or where two ops read it;
- a splat is kept for those alone that need it in memory; others make its elements themselves;
- a dear op is kept where its elements are used again and again (broadcast);
- what a barrier orders is kept, and not computed again behind it;
- reshapes, barriers and added dimensions are other names of what they read, and so are
  transposes that dots read (dots take their operands in any order), those of a matrix product (it
  is made in that order) and what a loop carries unchanged.

Constants are not in memory: they are part of the program.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property

from xdsl.ir import Block, Operation, OpResult, SSAValue

from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.regions import BARRIER
from autopar.dialects.tensors import num_bytes
from autopar.passes.walk import ops_in

from .kept import Keeper, captured
from .merging import Step, merged_steps
from .op_kinds import (
    COMPUTES_OPERANDS,
    CONSTANT,
    DOTS,
    LOOPS,
    VIEWS,
    is_splat,
    is_transpose,
    needed_of,
    operations_of,
    reads_from_memory,
    repeats,
    share_of,
    swaps_dot,
    updates_in_place,
)
from .prices import Operations


class Fusion:
    """The kept values of one block, and what each of its ops reads."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.ops = list(ops_in(block))
        self._own: frozenset[Operation | Block] = frozenset(self.ops)
        self._arguments = frozenset[SSAValue](block.args)
        self._reads: dict[Operation, dict[SSAValue, float]] = {}
        self._computed: dict[Operation, dict[SSAValue, Operations]] = {}
        self._awaits: dict[Operation, tuple[Sequence[SSAValue], Sequence[SSAValue]]] = {}
        self._behind: set[Operation] = set()
        """Ops that read something behind a barrier."""
        self.waits: Mapping[Operation, Sequence[SSAValue]] = {}
        """Kept values that ops shall await beside what they read."""
        self._views: dict[SSAValue, SSAValue] = {
            value: viewed
            for op in self.ops
            for value in op.results
            if (viewed := _viewed(value)) is not None
        }
        """Of which value another one is a name."""
        self._keeper = Keeper(self.ops, self._arguments, self._views)
        self._kept = self._keeper.kept
        self._written: dict[Operation, list[SSAValue]] = {
            op: [value for value in op.results if value in self._kept] for op in self.ops
        }

    def with_barriers(self) -> Fusion:
        """That of the same block now that some readers of kept values stand behind barriers: what
        is kept, and read by others, is the same but for rare cases."""
        found = copy(self)
        found.ops = list(ops_in(self.block))
        found._own = frozenset(found.ops)
        barriers = [op for op in found.ops if op not in self._own]
        found._views = dict(self._views)
        behind = {result for barrier in barriers for result in barrier.results}
        readers = (use.operation for result in behind for use in result.uses)
        for op in (*barriers, *dict.fromkeys(readers)):
            for value in op.results:
                viewed = _viewed(value)
                if (viewed is None) != (value not in found._views) and op in self._own:
                    return Fusion(self.block)
                if viewed is not None:
                    found._views[value] = viewed
        if not self._keeper.is_same_with_barriers(found.ops):
            return Fusion(self.block)
        found._written = {**self._written, **{barrier: [] for barrier in barriers}}
        anew = self._computed_from(behind)
        found._reads = {op: reads for op, reads in self._reads.items() if op not in anew}
        found._computed = {op: own for op, own in self._computed.items() if op not in anew}
        found._awaits = {op: awaits for op, awaits in self._awaits.items() if op not in anew}
        found._behind = self._behind - anew
        found.waits = {}
        vars(found).pop("steps", None)
        return found

    def _computed_from(self, values: Iterable[SSAValue]) -> set[Operation]:
        """The ops that read values, as themselves or with what is computed inside them."""
        found: set[Operation] = set()
        left = list(values)
        while left:
            for use in left.pop().uses:
                user: Operation | None = use.operation
                while user is not None and user.parent is not self.block:
                    user = user.parent_op()  # what a body reads, its op does
                if user is not None and user not in found:
                    found.add(user)
                    left += (value for value in user.results if value not in self._kept)
        return found

    def written(self, op: Operation) -> list[SSAValue]:
        """The results of an op that are kept."""
        return self._written.get(op, [])

    @cached_property
    def steps(self) -> list[Step]:
        """What runs together, in the order in which it runs once collectives are merged."""
        return merged_steps(self.ops, self.awaits)

    def writes(self, op: Operation) -> dict[SSAValue, float]:
        """The bytes that an op writes, each with a value that they lie as: its kept results, or
        what it updates in place by. An op that is computed inside others writes nothing; one that
        updates a constant, or a splat, writes that first, as its result."""
        written = self.written(op)
        if written and updates_in_place(op):
            update = max(op.operands[1:], key=lambda operand: num_bytes(operand.type))
            found: dict[SSAValue, float] = {update: num_bytes(update.type)}
            if self.name(op.operands[0]) is None:
                found[op.results[0]] = num_bytes(op.results[0].type)
            return found
        return {value: num_bytes(value.type) for value in written}

    def name(self, value: SSAValue) -> SSAValue | None:
        """The kept value that a value is, or is another name of; None: it has no memory."""
        while value not in self._kept and value.owner in self._own:
            if value not in self._views:
                return None
            value = self._views[value]
        return value

    def is_in_order(self, value: SSAValue) -> bool:
        """Whether a value lies in memory as its type has it: what dots read transposed does not."""
        name = self.name(value)
        while value is not name:
            maker = value.owner
            if name is None or (is_transpose(maker) and not swaps_dot(maker)):
                return False
            value = self._views[value]
        return True

    def reads(self, op: Operation) -> dict[SSAValue, float]:
        """The kept values that an op reads, with what is computed inside it, and how many bytes of
        each: what is sliced off is not read, nor what is updated in place. An op that is computed
        inside others reads nothing itself."""
        if op.results and not self.written(op):
            return {}
        return self._found_reads(op)

    def computes(self, op: Operation) -> dict[SSAValue, Operations]:
        """The operations on elements of an op and of what is computed inside it, by the values that
        they make, those of a reduction by what it reads; none on what is sliced off. An op that is
        computed inside others computes nothing itself."""
        if op.results and not self.written(op):
            return {}
        self._found_reads(op)
        return self._computed[op]

    def awaits(self, op: Operation) -> tuple[Sequence[SSAValue], Sequence[SSAValue]]:
        """The kept values that must be there before an op runs, and the results of barriers that it
        reads: a barrier awaits all of its operands. What is computed inside others awaits nothing
        itself. They stand as XLA's fusions have them: what is computed inside gives way to what it
        reads, behind the others, the last of it first (`InstructionFusion`)."""
        found = self._awaits.get(op)
        if found is None:
            found = self._awaits[op] = self._find_awaited(op)
        more = self.waits.get(op)
        return found if more is None else ((*found[0], *more), found[1])

    def _find_awaited(self, op: Operation) -> tuple[Sequence[SSAValue], Sequence[SSAValue]]:
        if op.results and not self.written(op) and op.name != BARRIER:
            return (), ()
        found = self._found_reads(op)
        if op not in self._behind:
            return tuple(found), ()
        values: dict[SSAValue, None] = {}
        behind: dict[SSAValue, None] = {}
        left = [*op.operands, *captured(op, self._own, self._arguments)]
        met: set[SSAValue] = set()
        while left:
            value = left.pop()
            if value in met:
                continue
            met.add(value)
            maker = value.owner
            if isinstance(maker, Operation) and maker.name == BARRIER and maker in self._own:
                behind[value] = None
            elif value in found or (value in self._kept and maker in self._own):
                values[value] = None  # scalars that are broadcast are not read, but awaited
            elif isinstance(maker, Operation) and maker in self._own:
                left += self._sources(value, maker)
        in_order = [value for value in found if value in values]
        return tuple(dict.fromkeys([*in_order, *values])), tuple(behind)[::-1]

    def _found_reads(self, op: Operation) -> dict[SSAValue, float]:
        found = self._reads.get(op)
        if found is None:
            found = self._reads[op] = self._find_reads(op)
        return found

    def _find_reads(self, op: Operation) -> dict[SSAValue, float]:
        wanted = [(operand, share_of(op, operand)) for operand in operands_of(op)]
        if updates_in_place(op):
            wanted[0] = op.operands[0], 0.0
        wanted += [(value, 1.0) for value in captured(op, self._own, self._arguments)]
        direct = [value for value, _ in wanted]
        computed = self._computed[op] = {}
        most: dict[SSAValue, float] = {}
        """The share of each value met that is needed; a value is met again where more of it is."""
        found: dict[SSAValue, float] = {}
        inside: list[tuple[OpResult, float]] = []
        later = [[each] for each in wanted[:0:-1]] if reads_from_memory(op) else []
        wanted = wanted[:1] if later else wanted
        while True:
            for value, share in wanted:
                if most.get(value, -1.0) >= share:
                    continue
                if type(value) is OpResult and value.op in self._own:
                    is_made = is_splat(value.op) and not self._is_held(value, op, direct)
                    if is_made or value not in self._kept:
                        inside.append((value, share))
                        continue
                most[value] = share
                found[value] = share * num_bytes(value.type)
            if not inside:
                if not later:
                    break
                wanted = later.pop()
                continue
            value, share = inside.pop()
            maker = value.op
            if maker.name == BARRIER:
                self._behind.add(op)
            if most.get(value, -1.0) >= share:
                wanted = []
                continue
            most[value] = share
            operations = operations_of(maker, share)
            if operations is not None:
                computed[value] = operations
            wanted = [
                (source, needed_of(share, value, maker, source))
                for source in self._sources(value, maker)
            ]
        operations = operations_of(op)
        if operations is not None:
            value = op.operands[0] if op.name in COMPUTES_OPERANDS else op.results[0]
            computed[value] = Operations.total((operations, computed.get(value, Operations())))
        return found

    def _is_held(self, value: SSAValue, op: Operation, direct: Sequence[SSAValue]) -> bool:
        """Whether an op takes a splat as it lies in memory, by one of the names that it reads."""
        return any(self.name(name) is value for name in self._held(op, direct))

    def _held(self, op: Operation, read: Sequence[SSAValue]) -> Sequence[SSAValue]:
        """What an op takes as it lies in memory if it is a splat; others make its elements
        themselves, and loops that carry it unchanged make it anew inside."""
        if op.name not in LOOPS:
            return read if reads_from_memory(op) else ()
        pairs = zip(op.operands, op.results, strict=True)
        carried = {value for value, result in pairs if result in self._views}
        return [value for value in read if value not in carried]

    def _sources(self, value: SSAValue, op: Operation) -> Sequence[SSAValue]:
        """What the code of a value reads: of a name the value itself, of a constant nothing."""
        if op.name == CONSTANT:
            return ()
        viewed = self._views.get(value)
        return operands_of(op) if viewed is None else (viewed,)


class Fusions:
    """The fusions of blocks that do not change any more, but for barriers, each made once."""

    def __init__(self) -> None:
        self._of: dict[Block, Fusion] = {}

    def __call__(self, block: Block) -> Fusion:
        found = self._of.get(block)
        if found is None:
            found = self._of[block] = Fusion(block)
        return found

    def add_barriers(self, block: Block) -> None:
        """Takes up that a block has barriers now in front of readers of what is kept."""
        self._of[block] = self(block).with_barriers()


def _viewed(value: SSAValue) -> SSAValue | None:
    """The value of which this one is another name: of a view its operand, of a loop's result what
    the loop carries unchanged."""
    op = value.owner
    if not isinstance(value, OpResult) or not isinstance(op, Operation):
        return None
    if op.name in LOOPS:
        body = op.regions[1].block
        last = body.last_op
        is_same = last is not None and last.operands[value.index] is body.args[value.index]
        return op.operands[value.index] if is_same else None
    if is_transpose(op):
        into_dots = all(use.operation.name in DOTS for use in value.uses)
        return op.operands[0] if into_dots or swaps_dot(op) else None
    if op.name == "stablehlo.broadcast_in_dim":  # adds dimensions of size 1
        return None if repeats(op) else op.operands[0]
    return op.operands[value.index] if op.name in VIEWS else None
