"""Concatenations of slices: what partitioning takes from what the slices are of, each element
moved once (`passes/partition/global_program.py`). A roll is the concatenation of two slices of one
value, and no slice of it has a length that the axes divide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

from xdsl.ir import Operation, OpResult, SSAValue

from autopar.dialects.rules.access import integer, ints, operands_of
from autopar.dialects.tensors import shape_of
from autopar.passes.partition.global_program import cuts_only

_MOST = 0.5
"""The share of a value above which its slices are planned as the value."""


class Cut(NamedTuple):
    """What a concatenation takes of a value, in its dimension."""

    source: SSAValue
    start: int
    length: int
    views: tuple[Operation, ...] = ()
    """The slices in between, the last first; () where it takes all of the value."""


def joined_slices(
    ops: Iterable[Operation], stated: Container[SSAValue] = ()
) -> Iterator[tuple[Operation, tuple[Cut, ...]]]:
    """The concatenations that take most of a value by slices, and what they take; `stated`: values
    that the program says something of, which are choices of their own."""
    for op in ops:
        if op.name == "stablehlo.concatenate":
            dim = integer(op, "dimension")
            cuts = [_cut(value, dim, op, stated) for value in operands_of(op)]
            taken: Counter[SSAValue] = Counter()
            for cut in cuts:
                taken[cut.source] += cut.length if cut.views else 0
            kept = tuple(
                cut
                if taken[cut.source] > _MOST * shape_of(cut.source.type)[dim]
                else Cut(value, 0, shape_of(value.type)[dim])
                for cut, value in zip(cuts, operands_of(op), strict=True)
            )
            if any(cut.views for cut in kept):
                yield op, kept


def _cut(value: SSAValue, dim: int, reader: Operation, stated: Container[SSAValue]) -> Cut:
    """Of what a value is a slice for its one reader."""
    length, start, views = shape_of(value.type)[dim], 0, list[Operation]()
    while isinstance(value, OpResult) and value.has_one_use() and value not in stated:
        op = value.op
        if op.parent is not reader.parent or op.name != "stablehlo.slice" or not cuts_only(op, dim):
            break
        start += ints(op, "start_indices")[dim]
        views.append(op)
        (value,) = operands_of(op)
    return Cut(value, start, length, tuple(views))
