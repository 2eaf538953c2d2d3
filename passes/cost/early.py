"""What a block should run earlier than XLA does, so that memory is free again.

XLA:CPU runs what a value needs when something needs the value (`order.py`): the gradients of
weights at the end of a step, where the update reads them, so that all activations and their
gradients are there until then, those that were computed again as well (`jax.checkpoint`). Here the
steps are gone through in that order, and what is ready, but far from its turn, runs at once where
what it lets go of is more than what it gives (list scheduling, as XLA's `ListMemoryScheduler`, by
groups of steps that let go of a value together).
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Sequence
from typing import NamedTuple

from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, SSAValue

from autopar.dialects.autopar import COMBINE
from autopar.dialects.rules.regions import BARRIER
from autopar.dialects.shard import CollectiveCommunicationOp
from autopar.dialects.tensors import num_bytes, shape_of
from autopar.passes.walk import inner_ops, post_order, read_by

from .fusion import Fusion
from .op_kinds import BODIES
from .order import RunOrder

_SOON = 4
"""Steps after which one that waits is not far from its turn."""
_MANY = 32
"""Steps that are looked at together."""


class Wait(NamedTuple):
    """What must be there before an op runs, and the operand of the op that may wait for it."""

    op: Operation
    operand: int
    values: list[SSAValue]


def blocks_of(func: FuncOp) -> list[Block]:
    """The blocks of a program in which there is something to order: its own, and the bodies of
    loops and branches."""
    bodies = (op.regions for op in inner_ops(func) if op.name in BODIES)
    return [func.body.block, *(region.block for regions in bodies for region in regions)]


def waits_of(fusion: Fusion, order: RunOrder | None = None) -> list[Wait]:
    """What ops of a block should wait for, in the order in which they run then: results of ops that
    would run later, and let go of more memory than they take. `order`: where it is known, that in
    which the block runs by itself."""
    return _Early(fusion, order or RunOrder(fusion)).waits


class _Early:
    """A walk through the steps of a block in their order."""

    def __init__(self, fusion: Fusion, order: RunOrder) -> None:
        self._order = order
        self._block = fusion.block
        runs = order.runs()
        self._written = {n: [v for op in order.ops[n] for v in fusion.written(op)] for n in runs}
        self._made = {value for values in self._written.values() for value in values}
        number_of = {op: number for number in runs for op in order.ops[number]}
        self._known: dict[SSAValue, tuple[int | None, SSAValue | None]] = {
            value: (number_of.get(op), name if name in self._made else None)
            for op in fusion.ops
            if fusion.written(op) or op.name == BARRIER
            for value in op.results
            for name in (fusion.name(value),)
        }
        """Of what is written, and the results of barriers: the step that gives a value, and what it
        is in memory."""
        self._collectives = {
            number for number in runs if isinstance(order.ops[number][0], CollectiveCommunicationOp)
        }
        self._reads: dict[int, list[SSAValue]] = {}
        self._readers: dict[SSAValue, list[int]] = {}
        self._waiting: dict[int, set[int]] = {}
        self._users: dict[int, list[int]] = {}
        for number in runs:
            values, self._waiting[number] = self._find_needs(number)
            # Scalars take no memory to speak of, and may have thousands of readers.
            self._reads[number] = [value for value in values if shape_of(value.type)]
            for value in values:
                self._readers.setdefault(value, []).append(number)
            for maker in self._waiting[number]:
                self._users.setdefault(maker, []).append(number)
        # The order of the cost model leaves out what scalars that are broadcast wait for.
        self._runs = post_order(runs, lambda number: sorted(self._waiting[number]), set())
        self._turn = {number: turn for turn, number in enumerate(self._runs)}
        self._done: set[int] = set()
        self.waits: list[Wait] = []
        self._walk()

    def _find_needs(self, number: int) -> tuple[dict[SSAValue, None], set[int]]:
        """The kept values that a step is computed from, by whatever is computed inside it, and the
        steps that must run first, barriers among them."""
        values: dict[SSAValue, None] = {}
        makers: set[int] = set()
        met: set[SSAValue] = set()
        left = [value for op in self._order.ops[number] for value in read_by(op)]
        while left:
            value = left.pop()
            if value in met:
                continue
            met.add(value)
            known = self._known.get(value)
            if known is not None:
                step, name = known
                if step is not None and step != number:
                    makers.add(step)
                if name is not None:
                    values[name] = None
            elif isinstance(maker := value.owner, Operation) and maker.parent is self._block:
                left += read_by(maker)
        return values, makers

    def _walk(self) -> None:
        early: list[int] = []
        """What ran earlier than XLA has it, since the last step that had its turn."""
        for turn, number in enumerate(self._runs):
            if number in self._done:
                continue
            if early and self._hold(number, early):
                early = []
            waiting = self._run(number)
            while waiting:
                first = waiting.pop()
                if not self._is_far(first, turn):
                    continue
                group = self._group(first, turn) or self._with_collectives(first, turn)
                for member in group:
                    waiting += self._run(member)
                early += group

    def _run(self, number: int) -> list[int]:
        """Runs a step; gives the steps that may run now, or let go of more now."""
        self._done.add(number)
        users = self._users.get(number, ())
        for user in users:
            self._waiting[user].discard(number)
        others = (reader for value in self._reads[number] for reader in self._readers[value])
        return list(dict.fromkeys((*users, *others)))

    def _is_late(self, number: int, turn: int) -> bool:
        """Whether a step may run, but is far from its turn."""
        return self._is_far(number, turn) and not self._waiting[number]

    def _is_far(self, number: int, turn: int) -> bool:
        return number not in self._done and self._turn[number] > turn + _SOON

    def _group(self, first: int, turn: int) -> list[int]:
        """A late step and others that read what it reads, with what makes less of their results;
        none where they let go of no more than they give."""
        if self._waiting[first]:
            return []
        others = (reader for value in self._reads[first] for reader in self._readers[value])
        members = dict.fromkeys(reader for reader in others if self._is_late(reader, turn))
        dying = {v for n in members for v in self._reads[n] if self._dies(v, members, turn)}
        group = [n for n in members if dying.intersection(self._reads[n])]
        given = 0
        for number in list(group):
            smaller = self._smaller(number)
            group += smaller
            last = smaller[-1] if smaller else number
            given += sum(num_bytes(value.type) for value in self._written[last])
        return group if sum(num_bytes(value.type) for value in dying) > given else []

    def _with_collectives(self, first: int, turn: int) -> list[int]:
        """A step, the late collectives that it waits for, and all that reads what these give (a
        gradient's dot with what brings its operands), or what reads what it gives as one of them,
        and what makes less of what they read (a bias's gradient); none where they let go of no more
        than they give."""
        if not self._collectives:
            return []
        members = dict.fromkeys(self._added(first, {}, turn))
        left = [member for member in members if self._is_collective(member)]
        while left and len(members) < _MANY:
            for user in self._users.get(left.pop(), ()):
                added = self._added(user, members, turn)
                if not added and user not in members:
                    return []
                members |= dict.fromkeys(added)
                left += filter(self._is_collective, added)
        if not any(map(self._is_collective, members)):
            return []
        members |= dict.fromkeys(self._less(members, turn))
        for member in list(members):
            members |= dict.fromkeys(self._smaller(member))
        read = {value for n in members for value in self._reads[n]}
        made = {value for n in members for value in self._written[n]}
        freed = sum(num_bytes(v.type) for v in read - made if self._dies(v, members, turn))
        given = sum(
            num_bytes(value.type)
            for value in made
            if not self._readers.get(value) or not self._dies(value, members, turn)
        )
        return list(members) if freed > given else []

    def _less(self, members: Collection[int], turn: int) -> Iterator[int]:
        """Late steps that read what some members do, and give less than that."""
        for value in dict.fromkeys(value for n in members for value in self._reads[n]):
            for reader in self._readers[value]:
                if reader not in members and self._is_late(reader, turn):
                    given = sum(num_bytes(v.type) for v in self._written[reader])
                    if given < num_bytes(value.type):
                        yield reader

    def _added(self, number: int, members: Container[int], turn: int) -> list[int]:
        """A step behind the late collectives that it waits for beside some; none where it is among
        them, or waits for more."""
        found: dict[int, None] = {}
        left = [] if number in members else [number]
        while left:
            step = left[-1]
            missing: list[int] = []
            for other in self._waiting[step]:
                if other in members or other in found:
                    continue
                if not (self._is_collective(other) and self._is_far(other, turn)):
                    return []
                missing.append(other)
            if missing:
                left += sorted(missing)
            elif not self._is_far(step, turn):
                return []
            else:
                found[left.pop()] = None
        return list(found)

    def _is_collective(self, number: int) -> bool:
        return number in self._collectives

    def _dies(self, value: SSAValue, members: Container[int], turn: int) -> bool:
        """Whether a value is read no more once some steps, and those that are near, have run."""
        return all(
            reader in self._done or reader in members or self._turn[reader] <= turn + _SOON
            for reader in self._readers[value]
        )

    def _smaller(self, number: int) -> list[int]:
        """The steps behind one that each make less of what only they read."""
        found: list[int] = []
        while True:
            users = self._users.get(number, ())
            if len(users) != 1 or self._waiting[users[0]] != {number} or users[0] in self._done:
                return found
            sizes = [sum(num_bytes(v.type) for v in self._written[n]) for n in (number, users[0])]
            if not 0 < sizes[1] < sizes[0]:
                return found
            number = users[0]
            found.append(number)

    def _hold(self, number: int, early: Sequence[int]) -> bool:
        """Lets a step wait for others; whether it can: it takes something as it was computed."""
        op = self._order.ops[number][0]
        made = (i for i, operand in enumerate(op.operands) if operand in self._made)
        index = next(made, None)
        if index is None or COMBINE in op.attributes or not op.results:
            return False
        written = (value for member in early for value in self._written[member])
        values = [v for v in written if not self._done.intersection(self._readers.get(v, ()))]
        if values:
            self.waits.append(Wait(op, index, values))
        return True
