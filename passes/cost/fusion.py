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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TypeGuard

from xdsl.ir import Block, Operation, OpResult, SSAValue

from autopar.dialects.autopar import COMBINE
from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.regions import BARRIER
from autopar.dialects.tensors import num_bytes, shape_of
from autopar.dialects.traits import Elementwise
from autopar.passes.walk import inner_ops, ops_in

from .flops import dot_numbers
from .merging import Step, merged_steps

DOTS = frozenset({"stablehlo.dot_general", "stablehlo.convolution"})
_CHEAP = frozenset(
    f"stablehlo.{name}"
    for name in (
        "broadcast_in_dim", "clamp", "concatenate", "dynamic_slice", "iota", "pad", "reverse",
        "select", "slice", "transpose", "get_tuple_element", "bitcast_convert",
    )
) | {"shard.all_slice"}  # fmt: skip
_DEAR = frozenset(
    f"stablehlo.{name}"
    for name in (
        "atan2", "cbrt", "cosine", "divide", "exponential", "exponential_minus_one", "log",
        "log_plus_one", "logistic", "power", "remainder", "rsqrt", "sine", "sqrt", "tan", "tanh",
    )
)  # fmt: skip
_CHEAP_CHLO = frozenset(
    {"chlo.conj", "chlo.is_inf", "chlo.is_neg_inf", "chlo.is_pos_inf", "chlo.square"}
)
_VIEWS = frozenset({"stablehlo.reshape", BARRIER})
_LOOPS = frozenset({"stablehlo.while"})
BODIES = _LOOPS | {"stablehlo.case", "stablehlo.if"}
"""Ops whose regions are programs."""
_COMPUTES_OPERANDS = frozenset({"stablehlo.reduce", "stablehlo.gather"})
"""Ops that compute what they read by themselves, and whose result is kept."""
_IN_PLACE = frozenset({"stablehlo.dynamic_update_slice", "stablehlo.scatter"})
_CUTS = frozenset(
    {"stablehlo.slice", "stablehlo.dynamic_slice", "stablehlo.gather", "shard.all_slice"}
)
_CONSTANT = "stablehlo.constant"
_BROADCAST = "stablehlo.broadcast_in_dim"


def is_elementwise(op: Operation) -> bool:
    """Whether an op computes each element of its result from those at the same place."""
    return _is_elementwise(type(op))


@lru_cache(4096)  # looking for a trait goes through all that an op has
def _is_elementwise(kind: type[Operation]) -> bool:
    return kind.has_trait(Elementwise, value_if_unregistered=False)


def updates_in_place(op: Operation) -> bool:
    """Whether an op changes a part of its first operand."""
    return op.name in _IN_PLACE


def cuts_out(op: Operation) -> bool:
    """Whether an op reads no more of its first operand than its result has."""
    return op.name in _CUTS


def _takes_computed(op: Operation, index: int) -> bool:
    """Whether an op that updates in place computes an operand by itself: a scatter does not."""
    return op.name == "stablehlo.dynamic_update_slice" and index > 0


_Asker = Operation | None
"""An op that chooses which elements of its operands it needs; None: what is written asks for its
own."""
_Places = dict[int, set[_Asker]]
_NOWHERE: _Places = {}
_MOST_TIMES = 15
"""How often code may stand in one fusion (XLA's `FusionNodeIndexingEvaluation`)."""
_BRANCHES = frozenset({"stablehlo.concatenate", "stablehlo.pad"})
"""Ops whose code has branches: what is computed in one of these is not there for other code of the
fusion, so that XLA lets them stand once alone (its `OpInvalidatesCache`)."""


class Fusion:
    """The kept values of one block, and what each of its ops reads."""

    def __init__(self, block: Block) -> None:
        self.ops = list(ops_in(block))
        self._own: frozenset[Operation | Block] = frozenset(self.ops)
        self._arguments = frozenset[SSAValue](block.args)
        self._kept: set[SSAValue] = set(block.args)
        self._written: dict[Operation, list[SSAValue]] = {}
        self._reads: dict[Operation, dict[SSAValue, float]] = {}
        self._awaits: dict[Operation, tuple[Sequence[SSAValue], Sequence[SSAValue]]] = {}
        self._behind: set[Operation] = set()
        """Ops that read something behind a barrier."""
        self.waits: Mapping[Operation, Sequence[SSAValue]] = {}
        """Kept values that ops shall await beside what they read."""
        self._views: dict[SSAValue, SSAValue] = {}
        """Of which value another one is a name."""
        self._places: dict[SSAValue, _Places] = {}
        """The ops, by their places, in whose code a value is computed, and who asks for it there:
        each takes other elements (all that are elementwise take those of their own user)."""
        self._times: dict[tuple[Operation, int], int] = {}
        """How often the code of an op stands in that at a place, if more than once."""
        self._names: dict[Operation, list[SSAValue]] = {}
        """The results of an op that are names."""
        for op in self.ops:
            for value in op.results:
                viewed = _viewed(value)
                if viewed is not None:
                    self._views[value] = viewed
                    self._names.setdefault(op, []).append(value)
        self._takes: dict[Operation, bool] = {}
        self._bits = self._find_bits()
        """Of values of several readers that read more than they have, each another one."""
        self._needs = self._find_needs()
        """Which of these a value is computed from, as bits."""
        for place in range(len(self.ops) - 1, -1, -1):
            for value in self.ops[place].results:
                self._decide(place, self.ops[place], value)
        for op in self.ops:
            self._written[op] = [value for value in op.results if value in self._kept]

    def written(self, op: Operation) -> list[SSAValue]:
        """The results of an op that are kept."""
        return self._written.get(op, [])

    @cached_property
    def steps(self) -> list[Step]:
        """What runs together, in the order in which it runs once collectives are merged."""
        return merged_steps(self.ops)

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
            if name is None or (_is_transpose(maker) and not _swaps_dot(maker)):
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

    def awaits(self, op: Operation) -> tuple[Sequence[SSAValue], Sequence[SSAValue]]:
        """The kept values that must be there before an op runs, and the results of barriers that it
        reads: a barrier awaits all of its operands. What is computed inside others awaits nothing
        itself."""
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
        left = [*op.operands, *self._captured(op)]
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
        return tuple(values), tuple(behind)

    def _found_reads(self, op: Operation) -> dict[SSAValue, float]:
        found = self._reads.get(op)
        if found is None:
            found = self._reads[op] = self._find_reads(op)
        return found

    def _find_reads(self, op: Operation) -> dict[SSAValue, float]:
        wanted = [(operand, _share(op, operand)) for operand in operands_of(op)]
        if updates_in_place(op):
            wanted[0] = op.operands[0], 0.0
        wanted += [(value, 1.0) for value in self._captured(op)]
        held = {self.name(value) for value in self._held(op, [value for value, _ in wanted])}
        most: dict[SSAValue, float] = {}
        """The share of each value met that is needed; a value is met again where more of it is."""
        found: dict[SSAValue, float] = {}
        while wanted:
            value, share = wanted.pop()
            if most.get(value, -1.0) >= share:
                continue
            most[value] = share
            if type(value) is not OpResult or (maker := value.op) not in self._own:
                found[value] = share * num_bytes(value.type)
                continue
            if maker.name == BARRIER:
                self._behind.add(op)
            if _is_splat(maker) and value not in held:
                continue
            if value in self._kept:
                found[value] = share * num_bytes(value.type)
            else:
                for source in self._sources(value, maker):
                    wanted.append((source, _needed(share, value, maker, source)))
        return found

    def _held(self, op: Operation, read: Sequence[SSAValue]) -> Sequence[SSAValue]:
        """What an op takes as it lies in memory if it is a splat; others make its elements
        themselves, and loops that carry it unchanged make it anew inside."""
        if op.name not in _LOOPS:
            return read if reads_from_memory(op) else ()
        pairs = zip(op.operands, op.results, strict=True)
        carried = {value for value, result in pairs if result in self._views}
        return [value for value in read if value not in carried]

    def _sources(self, value: SSAValue, op: Operation) -> Sequence[SSAValue]:
        """What the code of a value reads: of a name the value itself, of a constant nothing."""
        if op.name == _CONSTANT:
            return ()
        viewed = self._views.get(value)
        return operands_of(op) if viewed is None else (viewed,)

    def _captured(self, op: Operation) -> Iterator[SSAValue]:
        """The values of this block that the bodies of an op read."""
        if op.name in BODIES:
            for inner in inner_ops(op):
                for operand in inner.operands:
                    if operand.owner in self._own or operand in self._arguments:
                        yield operand

    def _find_bits(self) -> dict[SSAValue, int]:
        found = (
            value
            for op in self.ops
            for value in op.results
            if not self._has_one_reader(value) and reads_more(value)
        )
        return {value: 1 << index for index, value in enumerate(found)}

    def _has_one_reader(self, value: SSAValue) -> bool:
        use = value.get_unique_use()
        return use is not None and use.operation not in self._names

    def _count_readers(self, value: SSAValue) -> int:
        """How many ops read a value, by itself or by another name."""
        views = (v for use in value.uses for v in use.operation.results if v in self._views)
        named = [v for v in views if self._views[v] is value]
        return len(list(value.uses)) - len(named) + sum(map(self._count_readers, named))

    def _find_needs(self) -> dict[SSAValue, int]:
        needs: dict[SSAValue, int] = {}
        for op in self.ops:
            needed = 0
            for operand in (*operands_of(op), *self._captured(op)):
                needed |= needs.get(operand, 0)
            for value in op.results:
                needs[value] = needed | self._bits.get(value, 0)
        return needs

    def _decide(self, place: int, op: Operation, value: SSAValue) -> None:
        places: _Places = {}
        is_demanded = self._visit_users(value, places)
        self._places[value] = places
        if op.name == _CONSTANT or value in self._views:
            return
        if is_demanded or not is_code(op) or self._is_kept_apart(op, value, places):
            self._kept.add(value)
            self._places[value] = {place: {None}}

    def _visit_users(self, value: SSAValue, places: _Places) -> bool:
        """Adds the places in whose code a value would be computed; whether a user wants it kept."""
        is_demanded = False
        is_splat = type(value) is OpResult and _is_splat(value.op)
        for use in value.uses:
            user = use.operation
            if user not in self._own:  # in a body
                is_demanded = True
                continue
            names = self._names.get(user, ())
            views = [view for view in names if self._views[view] is value]
            for view in views:
                is_demanded |= self._visit_users(view, places)
            if views:
                is_demanded |= user.name == BARRIER
                if is_splat or user.name not in _LOOPS:
                    continue
            if self._computes_operands(user):
                for place, askers in self._askers(user):
                    places.setdefault(place, set()).update(askers)
            else:
                is_made_there = updates_in_place(user) and is_splat
                is_demanded |= not (is_made_there or _takes_computed(user, use.index))
        return is_demanded

    def _computes_operands(self, user: Operation) -> bool:
        """Whether what an op reads may be computed inside it, or inside what it is computed in."""
        found = self._takes.get(user)
        if found is None:
            is_joined = user.name in _COMPUTES_OPERANDS or COMBINE in user.attributes
            found = self._takes[user] = is_joined or is_code(user)
        return found

    def _askers(self, user: Operation) -> Iterator[tuple[int, Iterable[_Asker]]]:
        """Who asks for what an op reads, where the op is computed."""
        own = None if is_elementwise(user) else (user,)
        for result in user.results:
            for place, askers in self._places.get(result, _NOWHERE).items():
                yield place, own or askers

    def _find_times(self, op: Operation, places: _Places) -> int:
        """Notes how often the code of an op would stand at each place; gives the most."""
        most = 1
        for place, askers in places.items():
            times = sum(self._times.get((asker, place), 1) if asker else 1 for asker in askers)
            if times > 1:
                self._times[op, place] = times
                most = max(most, times)
        return most

    def _is_kept_apart(self, op: Operation, value: SSAValue, places: _Places) -> bool:
        """Whether a value that could be computed inside its users is better kept."""
        times = self._find_times(op, places)
        if times > _MOST_TIMES:
            return True
        if op.name in _BRANCHES and (times > 1 or self._count_readers(value) > 1):
            return True
        if _is_dear(op) and any(map(_repeats, (use.operation for use in value.uses))):
            return True
        if len(places) <= 1:
            return False
        return _is_dear(op) or (value in self._bits and not self._is_inside_all(value))

    def _is_inside_all(self, value: SSAValue) -> bool:
        """Whether all users compute a value inside, and with it all else of theirs that needs it
        (XLA's `CanFuseOnAllPaths`)."""
        bit = self._bits[value]
        left = [use.operation for use in value.uses]
        met = set(left)
        while left:
            for operand in operands_of(left.pop()):
                if operand is value or not self._needs.get(operand, 0) & bit:
                    continue
                maker = operand.owner
                if not isinstance(maker, Operation) or operand in self._kept:
                    return False
                if maker not in met:
                    met.add(maker)
                    left.append(maker)
        return True


class Fusions:
    """The fusions of blocks that do not change any more, each made once."""

    def __init__(self) -> None:
        self._of: dict[Block, Fusion] = {}

    def __call__(self, block: Block) -> Fusion:
        found = self._of.get(block)
        if found is None:
            found = self._of[block] = Fusion(block)
        return found


def _viewed(value: SSAValue) -> SSAValue | None:
    """The value of which this one is another name: of a view its operand, of a loop's result what
    the loop carries unchanged."""
    op = value.owner
    if not isinstance(value, OpResult) or not isinstance(op, Operation):
        return None
    if op.name in _LOOPS:
        body = op.regions[1].block
        last = body.last_op
        is_same = last is not None and last.operands[value.index] is body.args[value.index]
        return op.operands[value.index] if is_same else None
    if _is_transpose(op):
        into_dots = all(use.operation.name in DOTS for use in value.uses)
        return op.operands[0] if into_dots or _swaps_dot(op) else None
    if op.name == "stablehlo.broadcast_in_dim":  # adds dimensions of size 1
        return None if _repeats(op) else op.operands[0]
    return op.operands[value.index] if op.name in _VIEWS else None


def _is_transpose(op: Operation | Block) -> TypeGuard[Operation]:
    return isinstance(op, Operation) and op.name == "stablehlo.transpose"


def _swaps_dot(transpose: Operation) -> bool:
    """Whether an op transposes a matrix product, which is the product of both in turn (XLA's
    `AlgebraicSimplifier`)."""
    (value,) = transpose.operands
    is_dot = isinstance(value, OpResult) and value.op.name == "stablehlo.dot_general"
    return is_dot and value.has_one_use() and len(shape_of(value.type)) == 2


def is_code(op: Operation) -> bool:
    """Whether an op may be computed inside its users."""
    return op.name in _CHEAP or is_elementwise(op) or _is_outer_product(op)


def _is_outer_product(op: Operation) -> bool:
    """Whether an op is a dot that sums nothing: XLA multiplies what it broadcasts (its
    `AlgebraicSimplifier`)."""
    if op.name != "stablehlo.dot_general":
        return False
    sizes = shape_of(operands_of(op)[0].type)
    return all(sizes[dim] == 1 for dim in dot_numbers(op).lhs_contracting_dimensions)


def _is_unary(op: Operation) -> bool:
    """Whether an op reads no more than one operand that is as large as its result: made again, it
    reads no more than its result is (XLA's `EffectivelyAtMostUnary`)."""
    rank = len(shape_of(op.results[0].type))
    return sum(_is_whole(value, rank) for value in operands_of(op)) <= 1


def reads_more(value: SSAValue) -> bool:
    """Whether computing a value again reads more bytes than it has."""
    op = value.owner
    if not isinstance(op, Operation) or not is_code(op) or _is_unary(op):
        return False
    return sum(num_bytes(read.type) for read in dict.fromkeys(operands_of(op))) > num_bytes(
        value.type
    )


def is_cheap(value: SSAValue) -> bool:
    """Whether a kept value is no dearer to compute again than to read."""
    op = value.owner
    return isinstance(op, Operation) and is_code(op) and not _is_dear(op) and not reads_more(value)


def _is_whole(value: SSAValue, rank: int) -> bool:
    maker = value.owner
    is_made = isinstance(maker, Operation) and maker.name in (_CONSTANT, _BROADCAST)
    return not is_made and len(shape_of(value.type)) >= rank


def reads_from_memory(op: Operation) -> bool:
    """Whether an op needs its operands kept."""
    return not (is_code(op) or op.name in _COMPUTES_OPERANDS)


def _is_splat(op: Operation) -> bool:
    """Whether an op gives one scalar everywhere: cheaper made again than read, by every reader."""
    return op.name == "stablehlo.broadcast_in_dim" and not shape_of(operands_of(op)[0].type)


def _is_dear(op: Operation) -> bool:
    """Whether computing an element again costs more than reading it."""
    return op.name in _DEAR or (op.name.startswith("chlo.") and op.name not in _CHEAP_CHLO)


def _repeats(op: Operation) -> bool:
    """Whether an op reads the elements of its operand again and again."""
    if op.name != "stablehlo.broadcast_in_dim" and not _is_outer_product(op):
        return False
    return num_bytes(op.results[0].type) > max(num_bytes(value.type) for value in operands_of(op))


def _needed(share: float, value: SSAValue, maker: Operation, source: SSAValue) -> float:
    """The share of a source that is read where a share of a value made of it is: what is padded, or
    joined with others, may all be in the share that is needed."""
    if maker.name in _BRANCHES:  # its result has more elements than the source
        return min(1.0, share * num_bytes(value.type) / max(1, num_bytes(source.type)))
    return share * _share(maker, source)


def _share(op: Operation, operand: SSAValue) -> float:
    """The share of an operand that an op reads."""
    if not cuts_out(op):
        return 1.0
    return min(1.0, num_bytes(op.results[0].type) / max(1, num_bytes(operand.type)))
