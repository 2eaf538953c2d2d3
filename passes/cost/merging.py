"""The order in which ops run once collectives are merged.

Gathers and scatters with the same `autopar.combine` are lowered as one, over a buffer in which
their operands are joined. XLA makes one all_reduce of those over the same devices, of one kind and
element type, that do not need each other's results (`AllReduceCombiner`), as it finds them from
what the block returns. It runs where the last of them stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from xdsl.ir import Attribute, Operation, SSAValue

from autopar.dialects.autopar import COMBINE
from autopar.dialects.rules.access import operands_of
from autopar.dialects.shard import AllReduceOp
from autopar.dialects.tensors import element_type
from autopar.passes.walk import post_order, read_by

MESSAGE_BYTES = 30 * 2**20
"""The most bytes of all_reduces that XLA sends as one on GPUs (the default of its option
`xla_gpu_all_reduce_combine_threshold_bytes`); on CPU it knows no limit."""
Unit = list[Operation]
"""An op, or several collectives that are lowered as one."""
Step = list[Unit]
"""What runs together: one unit, or several all_reduces."""


def merged_steps(ops: Sequence[Operation]) -> list[Step]:
    """The ops of a block in the order in which they run."""
    units = units_of(ops)
    together = {id(unit): group for group in _all_reduces(units) for unit in group}
    if not together:
        return [[unit] for unit in units]
    order = _Order(together)
    waiting: list[Unit] = []
    for unit in units:
        if not order.run(unit):
            waiting.append(unit)
        elif order.is_merged(unit):
            waiting = order.run_all(waiting)
    return order.steps + [[unit] for unit in waiting]


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


def _found_first(units: Sequence[Unit]) -> Iterator[Unit]:
    """The units as XLA's passes go through them: each behind its operands, the first of these
    first, from what the block returns (`HloComputation::MakeInstructionPostOrder`). So what only
    the last result needs, as a loss, comes last."""
    maker = {value: number for number, unit in enumerate(units) for value in _results(unit)}

    def makers(number: int) -> Iterator[int]:
        for op in units[number]:
            yield from (maker[value] for value in read_by(op) if value in maker)

    last = len(units) - 1
    return (units[number] for number in post_order([last, *range(last)], makers, set()))


def _all_reduces(units: Sequence[Unit]) -> list[Step]:
    """all_reduces that become one, in program order."""
    if sum(type(unit[0]) is AllReduceOp for unit in units) < 2:
        return []
    needs: dict[SSAValue, int] = {}
    """The all_reduces that a value needs, as bits."""
    open_steps: dict[tuple[Attribute, ...], tuple[Step, int]] = {}
    steps: list[Step] = []
    count = 0
    place = {id(unit): number for number, unit in enumerate(units)}
    for unit in _found_first(units):
        needed = 0
        for op in unit:
            for operand in operands_of(op):
                needed |= needs.get(operand, 0)
        first = unit[0]
        if isinstance(first, AllReduceOp):
            key = (first.grid, first.grid_axes, first.reduction, element_type(first.input.type))
            step, bits = open_steps.get(key, (Step(), 0))
            if needed & bits or not step:
                step, bits = Step(), 0
                steps.append(step)
            step.append(unit)
            open_steps[key] = step, bits | 1 << count
            needed |= 1 << count
            count += 1
        for result in _results(unit):
            needs[result] = needed
    return [sorted(s, key=lambda unit: place[id(unit)]) for s in steps if len(s) > 1]
