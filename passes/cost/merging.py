"""The order in which ops run once collectives are merged.

Collectives with the same `autopar.combine` are lowered as one, over a buffer in which their
operands are joined. XLA then makes one all_reduce of those over the same devices, of one kind and
element type, that do not need each other's results (`AllReduceCombiner`; on CPU without a limit on
the bytes). It runs where the last of them stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from xdsl.ir import Attribute, Operation, SSAValue

from autopar.dialects.autopar import COMBINE
from autopar.dialects.shard import AllReduceOp
from autopar.dialects.tensors import element_type

Unit = list[Operation]
"""An op, or several collectives that are lowered as one."""
Step = list[Unit]
"""What runs together: one unit, or several all_reduces."""


def merged_steps(ops: Sequence[Operation]) -> list[Step]:
    """The ops of a block in the order in which they run."""
    units = list(_units(ops))
    together = {id(unit): group for group in _all_reduces(units) for unit in group}
    steps: list[Step] = []
    missing: set[SSAValue] = set()
    waiting: list[Unit] = []
    for unit in units:
        group = together.get(id(unit), [unit])
        if unit is not group[-1] or _waits(unit, missing):
            waiting.append(unit)
            missing.update(_results(unit))
            continue
        steps.append(group)
        if len(group) > 1:
            for member in group:
                missing.difference_update(_results(member))
            left = [other for other in waiting if all(other is not member for member in group)]
            waiting = _released(left, missing, together, steps)
    return steps + [[unit] for unit in waiting]


def _units(ops: Sequence[Operation]) -> list[Unit]:
    units: list[Unit] = []
    for mark, adjacent in groupby(ops, lambda op: op.attributes.get(COMBINE)):
        if mark is None:
            units += [[op] for op in adjacent]
        else:
            units.append(list(adjacent))
    return units


def _results(unit: Unit) -> list[SSAValue]:
    return [value for op in unit for value in op.results]


def _waits(unit: Unit, missing: set[SSAValue]) -> bool:
    return bool(missing) and any(value in missing for op in unit for value in op.operands)


def _released(
    waiting: Sequence[Unit], missing: set[SSAValue], together: Mapping[int, Step], steps: list[Step]
) -> list[Unit]:
    """Adds what need not wait any more to the steps; gives what still waits."""
    left: list[Unit] = []
    for unit in waiting:
        if id(unit) in together or _waits(unit, missing):
            left.append(unit)
        else:
            steps.append([unit])
            missing.difference_update(_results(unit))
    return left


def _all_reduces(units: Sequence[Unit]) -> list[Step]:
    """all_reduces that become one, in program order."""
    needs: dict[SSAValue, int] = {}
    """The all_reduces that a value needs, as bits."""
    open_steps: dict[tuple[Attribute, ...], tuple[Step, int]] = {}
    steps: list[Step] = []
    count = 0
    for unit in units:
        needed = 0
        for op in unit:
            for operand in op.operands:
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
    return [step for step in steps if len(step) > 1]
