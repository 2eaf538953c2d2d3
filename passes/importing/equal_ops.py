"""Merging ops with equal ones once calls are inlined.

`cse` looks at every op. Here functions have no equal ops of their own any more (the importer's
callers merge them in MLIR, several times faster), so that only what came in with a call can be
equal to another op, and what reads one that was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from xdsl.ir import Block, Operation, Region
from xdsl.traits import is_side_effect_free

from autopar.dialects.rules.access import operands_of
from autopar.passes.walk import ops_in


def merge_equal_to(ops: Iterable[Operation]) -> None:
    """Merges each of `ops` with an equal one of its block, and what is equal then: the first stays.

    Ops with effects, optimization_barrier among them, stay apart."""
    left = list(ops)[::-1]
    turns = {block: _Turns(block) for block in dict.fromkeys(op.parent for op in left) if block}
    while left:
        op = left.pop()
        turns_here = turns.get(op.parent) if op.parent is not None else None
        if turns_here is None or not op.results or not is_side_effect_free(op):
            continue
        other = next((found for found in turns_here.like(op) if _are_equal(op, found)), None)
        if other is None:
            continue
        first, second = sorted((op, other), key=turns_here.of.__getitem__)
        for kept, value in zip(first.results, second.results, strict=True):
            left += [use.operation for use in value.uses]
            value.replace_all_uses_with(kept)
        left.append(first)  # others may be equal to it
        turns_here.drop(second)
        second.detach()
        second.erase()


class _Turns:
    """Which op of a block comes first, and which read nothing."""

    def __init__(self, block: Block) -> None:
        self.of = {op: turn for turn, op in enumerate(ops_in(block))}
        self._alone: dict[type[Operation], list[Operation]] = {}
        for op in self.of:
            if not operands_of(op):
                self._alone.setdefault(type(op), []).append(op)

    def like(self, op: Operation) -> Iterator[Operation]:
        """Others of the block that may be equal to an op."""
        kind, block, operands = type(op), op.parent, operands_of(op)
        if operands:
            found: Iterable[Operation] = (use.operation for use in operands[0].uses)
        else:
            found = self._alone.get(kind, ())
        return (
            other
            for other in found
            if type(other) is kind and other is not op and other.parent is block
        )

    def drop(self, op: Operation) -> None:
        if not operands_of(op):
            self._alone[type(op)].remove(op)


def _are_equal(one: Operation, two: Operation) -> bool:
    """Whether ops of one class compute the same from the same operands."""
    return (
        tuple(operands_of(one)) == tuple(operands_of(two))
        and one.name == two.name
        and one.properties == two.properties
        and one.attributes == two.attributes
        and [value.type for value in one.results] == [value.type for value in two.results]
        and len(one.regions) == len(two.regions)
        and all(map(Region.is_structurally_equivalent, one.regions, two.regions))
    )
