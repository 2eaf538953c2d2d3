"""Results that take the memory of an argument, and what is copied for it.

A donated argument gives its memory to a result, and what a loop carries to what its body returns.
XLA copies both, argument and result, and then drops what the order that the program itself gives
makes needless (`CopyInsertion`):

- an argument is copied for its readers where one of them may come after the result is written;
- a result is computed elsewhere, and copied to its place, where it needs nothing that reads a
  copied argument, or is computed from other elements of one that is not copied;
- what is returned at two places, or is an argument at another place than its own, is copied there
  in the end; where nobody reads the argument of that place, the copy of the other is the result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from autopar.dialects.autopar import aliases
from autopar.dialects.rules.access import operands_of

from .fusion import Fusion
from .op_kinds import LOOPS, is_elementwise, updates_in_place

_Values = set[SSAValue]


@dataclass
class Handover:
    """All by the arguments whose memory results take."""

    results: dict[SSAValue, SSAValue]
    """What lies in the memory of each in the end, in the order of the results."""
    copied: _Values = field(default_factory=_Values)
    """For their readers."""
    moved: _Values = field(default_factory=_Values)
    """Their results are computed elsewhere, and copied there."""
    late: _Values = field(default_factory=_Values)
    """Their results are other arguments, or lie elsewhere too: these are copied in the end."""
    returned: _Values = field(default_factory=_Values)
    """These are results at other places than their own."""
    as_results: _Values = field(default_factory=_Values)
    """Their copies are such results."""


def donated(fusion: Fusion) -> dict[SSAValue, int]:
    """The arguments of a program, or of a loop's body, whose memory results take, and which."""
    block = fusion.block
    parent = block.parent_op()
    if isinstance(parent, FuncOp) and fusion.ops:
        pairs = sorted(aliases(parent), key=lambda pair: pair[1])
        return {block.args[argument]: result for argument, result in pairs}
    if parent is not None and parent.name in LOOPS and block is parent.regions[1].block:
        return {argument: argument.index for argument in block.args}
    return {}


def handover_of(
    fusion: Fusion,
    maker: Mapping[SSAValue, int],
    readers: Mapping[SSAValue, Collection[int]],
    is_before: Callable[[int, int], bool],
) -> Handover:
    """`maker`: the step that gives a value; `readers`: the steps that read each argument, but for
    the one that returns it; `is_before`: whether a step is needed by another one."""
    places = donated(fusion)
    last = fusion.block.last_op
    names = list(map(fusion.name, last.operands)) if last is not None and places else []
    results = {argument: names[place] for argument, place in places.items()}
    found = Handover({a: name for a, name in results.items() if name is not None and name is not a})
    at_home: set[SSAValue] = set()
    for argument, name in found.results.items():
        if name not in maker or name in at_home:
            found.late.add(argument)
        at_home.add(name)
    for place, name in enumerate(names):
        if name is not None and places.get(name, place) != place:
            found.returned.add(name)
    for argument, name in found.results.items():
        writer = maker.get(name, -1)
        before = {n for n in readers[argument] if n == writer or is_before(n, writer)}
        if argument in found.returned or len(before) < len(readers[argument]):
            found.copied.add(argument)
            is_moved = not before
        else:
            is_moved = writer in before and not may_write_over(fusion, name, argument)
        if is_moved and argument not in found.late:
            found.moved.add(argument)
    _find_copies_that_are_results(found, names, places, readers)
    return found


def _find_copies_that_are_results(
    found: Handover,
    names: Sequence[SSAValue | None],
    places: Mapping[SSAValue, int],
    readers: Mapping[SSAValue, Collection[int]],
) -> None:
    owners = {place: argument for argument, place in places.items()}
    for place, name in enumerate(names):
        owner = owners.get(place)
        if name is None or name not in found.copied or name in found.as_results or name is owner:
            continue
        if owner is None or (owner not in found.copied and not readers[owner]):
            found.as_results.add(name)
            found.late.discard(owner)


def may_write_over(fusion: Fusion, result: SSAValue, read: SSAValue) -> bool:
    """Whether what computes a result may write it over what it reads: each element is computed from
    the one at its place, or few are updated."""
    op = result.owner
    if not isinstance(op, Operation) or op.name in LOOPS or updates_in_place(op):
        return True
    if not is_elementwise(op):
        return False
    for value in _reached(tuple(op.operands), lambda value: _computed_at(fusion, value)):
        name, maker = fusion.name(value), value.owner
        if name is read and not fusion.is_in_order(value):
            return False
        if name is None and isinstance(maker, Operation) and not is_elementwise(maker):
            if _is_computed_from(fusion, maker, read):
                return False
    return True


def _computed_at(fusion: Fusion, value: SSAValue) -> Sequence[SSAValue]:
    """What a value is computed from inside its readers, each element from those at its place."""
    maker = value.owner
    if fusion.name(value) is None and isinstance(maker, Operation) and is_elementwise(maker):
        return tuple(maker.operands)
    return ()


def _is_computed_from(fusion: Fusion, op: Operation, read: SSAValue) -> bool:
    """Whether an op reads a value by what is computed inside it."""

    def inside(value: SSAValue) -> Sequence[SSAValue]:
        maker = value.owner
        if fusion.name(value) is None and isinstance(maker, Operation):
            return operands_of(maker)
        return ()

    return any(fusion.name(value) is read for value in _reached(operands_of(op), inside))


def _reached(
    values: Sequence[SSAValue], sources: Callable[[SSAValue], Sequence[SSAValue]]
) -> Iterator[SSAValue]:
    """Values, and what they are made of as far as `sources` go, each once."""
    left, met = list(values), set[SSAValue]()
    while left:
        value = left.pop()
        if value not in met:
            met.add(value)
            yield value
            left += sources(value)
