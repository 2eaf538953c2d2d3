"""Which reshards of a plan are made again for later ops, rather than held until these run.

Ops that read a value in the same form, each by a reshard that the plan counts for itself, share one
as long as there is room for what it gives from one op to the next. Where there is none, the later
op has it brought once more, as ZeRO-3 gathers parameters again to go backward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from xdsl.ir import Block, Operation, SSAValue

from autopar.dialects.rules.access import operands_of
from autopar.dialects.tensors import num_bytes
from autopar.passes.partition.specs import Spec

from .footprint import Bytes, Footprint
from .places import only_slices
from .plan_graph import PlanGraph


class _Reading(NamedTuple):
    time: int
    op: Operation
    operand: int


class _Gap(NamedTuple):
    """From one reading of a form to the next."""

    first: int
    end: int
    size: float
    later: _Reading


def made_again(
    graph: PlanGraph, footprint: Footprint, chosen: Sequence[int], limit: int
) -> tuple[dict[Operation, list[int]], int]:
    """The ops that have operands brought once more, and which; the most bytes in use then."""
    used = footprint.over_time(chosen)
    apart: dict[Operation, list[int]] = defaultdict(list)
    # the shortest first: what is read at once is to be shared
    for gap in sorted(_gaps(graph, footprint, chosen), key=lambda gap: gap.end - gap.first):
        if not _hold(used, gap, limit):
            apart[gap.later.op].append(gap.later.operand)
    return apart, int(used.max())


def _hold(used: Bytes, gap: _Gap, limit: int) -> bool:
    """Adds what is held over a gap to what is used, if there is room."""
    between = used[gap.first : gap.end]
    if between.size and between.max() + gap.size > limit:
        return False
    between += gap.size
    return True


def _gaps(graph: PlanGraph, footprint: Footprint, chosen: Sequence[int]) -> list[_Gap]:
    """Between any two readings of a form that is no one's place."""
    read: dict[tuple[SSAValue, Spec, Block | None], list[_Reading]] = defaultdict(list)
    for op, node in graph.op_nodes:
        needs = graph.nodes[node].strategies[chosen[node]].operands
        for index, value in enumerate(operands_of(op) if op in footprint.times else ()):
            source = graph.read_by(value, op)
            if source is None:
                continue
            have, need = graph.nodes[source].specs[chosen[source]], needs[index].with_partial(())
            if not only_slices(have, need):
                read[value, need, op.parent].append(_Reading(footprint.times[op], op, index))
    found: list[_Gap] = []
    for (value, need, _), readings in read.items():
        size = num_bytes(value.type) / graph.table.parts(need.dim_axes)
        for one, two in pairwise(sorted(readings, key=lambda reading: reading.time)):
            if one.op is not two.op:
                found.append(_Gap(one.time + 1, two.time, size, two))
    return found
