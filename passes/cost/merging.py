"""The order in which ops run once collectives are merged.

Gathers and scatters with the same `autopar.combine` are lowered as one, over a buffer in which
their operands are joined. XLA makes one all_reduce of those over the same devices, of one kind and
element type, that do not need each other's results (`AllReduceCombiner`), as it finds them from
what the block returns. It runs where the last of them stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import chain, groupby

from xdsl.ir import Attribute, Operation, SSAValue

from autopar.dialects.autopar import COMBINE
from autopar.dialects.rules.access import operands_of
from autopar.dialects.shard import AllReduceOp
from autopar.dialects.tensors import element_type
from autopar.passes.walk import post_order, read_by

MESSAGE_BYTES = 30 * 2**20
"""The most bytes of all_reduces that XLA sends as one on GPUs (the default of its option
`xla_gpu_all_reduce_combine_threshold_bytes`); on CPU it knows no limit."""
Awaits = Callable[[Operation], tuple[Sequence[SSAValue], Sequence[SSAValue]]]
Unit = list[Operation]
"""An op, or several collectives that are lowered as one."""
Step = list[Unit]
"""What runs together: one unit, or several all_reduces."""
_Key = tuple[Attribute, ...]


def merged_steps(ops: Sequence[Operation], awaits: Awaits) -> list[Step]:
    """The ops of a block in the order in which they run; `awaits` as `Fusion.awaits`."""
    units = units_of(ops)
    if sum(type(unit[0]) is AllReduceOp for unit in units) < 2:
        return [[unit] for unit in units]
    makers = makers_of(units, lambda op: chain(*awaits(op)))
    steps, waiting = _run(units, _all_reduces(units, makers))
    if waiting:  # merged ones wait for each other
        steps, waiting = _run(units, _in_turn(units, makers))
    return steps + [[unit] for unit in waiting]


def _run(units: Sequence[Unit], merged: Sequence[Step]) -> tuple[list[Step], list[Unit]]:
    """The steps in the order in which they run, and the units that never can."""
    together = {id(unit): group for group in merged for unit in group}
    order = _Order(together)
    waiting: list[Unit] = []
    for unit in units:
        if order.is_free(unit):
            order.steps.append([unit])
        elif not order.run(unit):
            waiting.append(unit)
        elif order.is_merged(unit):
            waiting = order.run_all(waiting)
    return order.steps, waiting


class _Order:
    """Steps in the order in which they run, and what they have to wait for."""

    def __init__(self, together: Mapping[int, Step]) -> None:
        self.steps: list[Step] = []
        self._together = together
        """The step of each unit that runs with others, by the unit's identity."""
        self._has_run: set[int] = set()
        self._missing: set[SSAValue] = set()
        """Results of units that wait."""

    def is_merged(self, unit: Unit) -> bool:
        return id(unit) in self._together

    def is_free(self, unit: Unit) -> bool:
        """Whether a unit runs alone, and waits for none that may still have to run."""
        return id(unit) not in self._together and not self._waits(unit)

    def run(self, unit: Unit) -> bool:
        """Adds the unit's step where the unit is its last and nothing that it reads is missing;
        whether it did."""
        step = self._together.get(id(unit), [unit])
        if unit is not step[-1] or any(map(self._waits, step)):
            self._missing.update(_results(unit))
            return False
        self.steps.append(step)
        for member in step:
            self._has_run.add(id(member))
            self._missing.difference_update(_results(member))
        return True

    def run_all(self, waiting: list[Unit]) -> list[Unit]:
        """Runs what need not wait any more; gives what still waits."""
        again = True
        while again:
            ran = [unit for unit in waiting if id(unit) not in self._has_run and self.run(unit)]
            again = any(map(self.is_merged, ran))
            waiting = [unit for unit in waiting if id(unit) not in self._has_run]
        return waiting

    def _waits(self, unit: Unit) -> bool:
        missing = self._missing
        return bool(missing) and any(value in missing for op in unit for value in operands_of(op))


def units_of(ops: Sequence[Operation]) -> list[Unit]:
    """Each op, and those next to each other that are lowered as one."""
    units: list[Unit] = []
    for mark, adjacent in groupby(ops, lambda op: op.attributes.get(COMBINE)):
        if mark is None:
            units += [[op] for op in adjacent]
        else:
            units.append(list(adjacent))
    return units


def _results(unit: Unit) -> list[SSAValue]:
    return [value for op in unit for value in op.results]


def makers_of(
    units: Sequence[Unit], reads: Callable[[Operation], Iterable[SSAValue]] = read_by
) -> list[list[int]]:
    """Of each unit the numbers of those that make what it reads, in that order."""
    maker: dict[SSAValue, int] = {}
    for number, unit in enumerate(units):
        for op in unit:
            for value in op.results:
                maker[value] = number
    return [
        [maker[value] for op in unit for value in reads(op) if value in maker] for unit in units
    ]


def _all_reduces(units: Sequence[Unit], makers: Sequence[Sequence[int]]) -> list[Step]:
    """all_reduces that become one, in program order, where no merged ones wait for each other.

    They are met as XLA's passes go through what is computed together: each behind its operands, the
    first of these first, from what the block returns (`HloComputation::MakeInstructionPostOrder`).
    So what only the last result needs, as a loss, comes last.
    """
    needs = [0] * len(units)
    """The all_reduces that a unit needs, itself among them, as bits."""
    open_steps: dict[_Key, tuple[list[int], int]] = {}
    steps: list[list[int]] = []
    count = 0
    for number in post_order(_roots(units), makers.__getitem__, set()):
        needed = 0
        for maker in makers[number]:
            needed |= needs[maker]
        key = _key(units[number])
        if key is not None:
            step, bits = open_steps.get(key, (list[int](), 0))
            if needed & bits or not step:
                step, bits = list[int](), 0
                steps.append(step)
            step.append(number)
            open_steps[key] = step, bits | 1 << count
            needed |= 1 << count
            count += 1
        needs[number] = needed
    return _steps(units, steps)


def _in_turn(units: Sequence[Unit], makers: Sequence[Sequence[int]]) -> list[Step]:
    """As `_all_reduces`, the way XLA does it, which takes longer: those that are met first become
    one, up to the first that needs one of them; then all is gone through once more, as others may
    need what is one now (`CombineInstructionsByKey`)."""
    first_of = list(range(len(units)))
    """Of each unit the first of those that it is one with."""
    members: dict[int, list[int]] = {}

    def makers_of_step(number: int) -> list[int]:
        step = members.get(number, [number])
        return [first_of[maker] for member in step for maker in makers[member]]

    left = {number for number, unit in enumerate(units) if _key(unit) is not None}
    while left:
        roots = (first_of[number] for number in _roots(units))
        order = list(post_order(roots, makers_of_step, set()))
        merged: list[int] = []
        for place, number in enumerate(order):
            if number in left:
                merged = _independent(units, order[place:], left, makers_of_step)
                left.difference_update(merged)
            if len(merged) > 1:
                break
        if len(merged) > 1:
            members[merged[0]] = merged
            for number in merged:
                first_of[number] = merged[0]
    return _steps(units, list(members.values()))


def _independent(
    units: Sequence[Unit],
    order: Sequence[int],
    left: Set[int],
    makers: Callable[[int], Iterable[int]],
) -> list[int]:
    """The first of an order, and those like it up to the first that needs one of them."""
    key, found = _key(units[order[0]]), [order[0]]
    behind = {order[0]}
    for number in order[1:]:
        is_behind = not behind.isdisjoint(makers(number))
        if number in left and _key(units[number]) == key:
            if is_behind:
                break
            found.append(number)
            behind.add(number)
        elif is_behind:
            behind.add(number)
    return found


def _roots(units: Sequence[Unit]) -> list[int]:
    """What the block returns, then the rest."""
    last = len(units) - 1
    return [last, *range(last)]


def _key(unit: Unit) -> _Key | None:
    """What all_reduces that become one have in common."""
    op = unit[0]
    if not isinstance(op, AllReduceOp):
        return None
    return op.grid, op.grid_axes, op.reduction, element_type(op.input.type)


def _steps(units: Sequence[Unit], numbers: Iterable[Sequence[int]]) -> list[Step]:
    return [[units[number] for number in sorted(step)] for step in numbers if len(step) > 1]
