"""Which values of a block are written to memory, rather than computed inside every op that needs
them. See `fusion.py` for the rules."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from xdsl.ir import Block, Operation, OpResult, SSAValue, Use

from autopar.dialects.autopar import COMBINE
from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.regions import BARRIER
from autopar.passes.walk import inner_ops

from .op_kinds import (
    BODIES,
    BRANCHES,
    COMPUTES_OPERANDS,
    CONSTANT,
    LOOPS,
    is_code,
    is_dear,
    is_elementwise,
    is_splat,
    reads_more,
    repeats,
    takes_computed,
    updates_in_place,
)

_Asker = Operation | None
"""An op that chooses which elements of its operands it needs; None: what is written asks for its
own."""
_Places = dict[int, set[_Asker]]
"""The ops, by their places, in whose code a value is computed, and who asks for it there: each
takes other elements (all that are elementwise take those of their own user)."""
_MOST_TIMES = 15
"""How often code may stand in one fusion (XLA's `FusionNodeIndexingEvaluation`)."""


def captured(
    op: Operation, own: Set[Operation | Block], arguments: Collection[SSAValue]
) -> Iterator[SSAValue]:
    """The values of a block, by its ops and arguments, that the bodies of an op read."""
    if op.name in BODIES:
        for inner in inner_ops(op):
            for operand in operands_of(inner):
                if operand.owner in own or operand in arguments:
                    yield operand


@dataclass(slots=True)
class _Reader:
    """An op as one that reads."""

    names: Sequence[SSAValue]
    """Its results that are names of what it reads."""
    is_code: bool
    """Whether it may be computed inside its users."""
    computes: bool
    """Whether what it reads may be computed inside it, or inside what it is computed in."""
    itself: tuple[_Asker, ...]
    """Who asks for what it reads; none: those who ask for its own results."""
    places: list[_Places] = field(default_factory=list[_Places])
    """Where its results are computed."""


class Keeper:
    """Decides, from the last value to the first, which values of a block are kept.

    `kept`: these, the arguments among them; none that is another name of one. `views`: of which
    value another one is a name.
    """

    def __init__(
        self,
        ops: Sequence[Operation],
        arguments: Collection[SSAValue],
        views: Mapping[SSAValue, SSAValue],
    ) -> None:
        self.kept = set(arguments)
        self._ops, self._arguments, self._views = ops, arguments, views
        self._readers = {op: self._reader(op) for op in ops}
        self._times: dict[tuple[Operation, int], int] = {}
        """How often the code of an op stands in that at a place, if more than once."""
        self._bits = self._find_bits()
        """Of values of several readers that read more than they have, each another one."""
        self._needs = self._find_needs(ops)
        """Which of these a value is computed from, as bits."""
        self._inside: list[SSAValue] = []
        """Those of them that are computed inside all of their users."""
        for place in range(len(ops) - 1, -1, -1):
            for value in ops[place].results:
                self._decide(place, ops[place], value)

    def is_same_with_barriers(self, ops: Sequence[Operation]) -> bool:
        """Whether the same is kept where ops of the block read kept values behind barriers that
        stand among them now."""
        needs = self._find_needs(ops)
        return all(self._is_inside_all(value, needs) for value in self._inside)

    def _reader(self, op: Operation) -> _Reader:
        names = [value for value in op.results if value in self._views]
        may_be_inside = is_code(op)
        computes = may_be_inside or op.name in COMPUTES_OPERANDS or COMBINE in op.attributes
        return _Reader(names, may_be_inside, computes, () if is_elementwise(op) else (op,))

    def _find_bits(self) -> dict[SSAValue, int]:
        found = (
            value
            for op in self._ops
            if self._readers[op].is_code
            for value in op.results
            if not self._has_one_reader(value) and reads_more(value)
        )
        return {value: 1 << index for index, value in enumerate(found)}

    def _has_one_reader(self, value: SSAValue) -> bool:
        use = value.get_unique_use()
        if use is None:
            return False
        reader = self._readers.get(use.operation)
        return reader is None or not reader.names

    def _count_readers(self, value: SSAValue) -> int:
        """How many ops read a value, by itself or by another name."""
        views = (v for use in value.uses for v in use.operation.results if v in self._views)
        named = [v for v in views if self._views[v] is value]
        return len(list(value.uses)) - len(named) + sum(map(self._count_readers, named))

    def _find_needs(self, ops: Sequence[Operation]) -> dict[SSAValue, int]:
        needs: dict[SSAValue, int] = {}
        own = self._readers.keys()
        for op in ops:
            needed = 0
            for operand in operands_of(op):
                needed |= needs.get(operand, 0)
            if op.regions:
                for operand in captured(op, own, self._arguments):
                    needed |= needs.get(operand, 0)
            for value in op.results:
                needs[value] = needed | self._bits.get(value, 0)
        return needs

    def _decide(self, place: int, op: Operation, value: SSAValue) -> None:
        reader = self._readers[op]
        places: _Places = {}
        is_demanded = self._visit_users(value, places)
        if op.name != CONSTANT and value not in self._views:
            if is_demanded or not reader.is_code or self._is_kept_apart(op, value, places):
                self.kept.add(value)
                places = {place: {None}}
        reader.places.append(places)

    def _visit_users(self, value: SSAValue, places: _Places) -> bool:
        """Adds the places in whose code a value would be computed; whether a user wants it kept."""
        is_demanded = False
        for use in value.uses:
            reader = self._readers.get(use.operation)
            if reader is None:  # in a body
                is_demanded = True
            elif reader.names:
                is_demanded |= self._visit_names(value, use, reader, places)
            elif reader.computes:
                _add_places(reader, places)
            else:
                is_demanded |= not _is_made_there(value, use)
        return is_demanded

    def _visit_names(self, value: SSAValue, use: Use, reader: _Reader, places: _Places) -> bool:
        """The same of a user some of whose results are names of what it reads."""
        user = use.operation
        is_demanded = False
        views = [view for view in reader.names if self._views[view] is value]
        for view in views:
            is_demanded |= self._visit_users(view, places)
        if views:
            is_demanded |= user.name == BARRIER
            if user.name not in LOOPS or _is_splat(value):
                return is_demanded
        if reader.computes:
            _add_places(reader, places)
            return is_demanded
        return is_demanded or not _is_made_there(value, use)

    def _find_times(self, op: Operation, places: _Places) -> int:
        """Notes how often the code of an op would stand at each place; gives the most."""
        most = 1
        for place, askers in places.items():
            times = len(askers)
            if self._times:  # mostly nothing stands anywhere more than once
                times = sum(self._times.get((a, place), 1) if a else 1 for a in askers)
            if times > 1:
                self._times[op, place] = times
                most = max(most, times)
        return most

    def _is_kept_apart(self, op: Operation, value: SSAValue, places: _Places) -> bool:
        """Whether a value that could be computed inside its users is better kept."""
        times = self._find_times(op, places)
        if times > _MOST_TIMES:
            return True
        if op.name in BRANCHES and (times > 1 or self._count_readers(value) > 1):
            return True
        if is_dear(op) and any(repeats(use.operation) for use in value.uses):
            return True
        if len(places) <= 1:
            return False
        if is_dear(op):
            return True
        if value not in self._bits:
            return False
        if not self._is_inside_all(value, self._needs):
            return True
        self._inside.append(value)
        return False

    def _is_inside_all(self, value: SSAValue, needs: Mapping[SSAValue, int]) -> bool:
        """Whether all users compute a value inside, and with it all else of theirs that needs it
        (XLA's `CanFuseOnAllPaths`)."""
        bit = self._bits[value]
        left = [use.operation for use in value.uses]
        met = set(left)
        while left:
            for operand in operands_of(left.pop()):
                if operand is value or not needs.get(operand, 0) & bit:
                    continue
                maker = operand.owner
                if not isinstance(maker, Operation) or operand in self.kept:
                    return False
                if maker not in met:
                    met.add(maker)
                    left.append(maker)
        return True


def _add_places(reader: _Reader, places: _Places) -> None:
    """Adds where what an op reads is computed, and who asks for it: where its results are."""
    for own in reader.places:
        for place, askers in own.items():
            known = places.get(place)
            if known is None:
                places[place] = set(reader.itself or askers)
            else:
                known.update(reader.itself or askers)


def _is_made_there(value: SSAValue, use: Use) -> bool:
    """Whether an op that wants what it reads in memory makes a value by itself."""
    user = use.operation
    return (updates_in_place(user) and _is_splat(value)) or takes_computed(user, use.index)


def _is_splat(value: SSAValue) -> bool:
    return type(value) is OpResult and is_splat(value.op)
