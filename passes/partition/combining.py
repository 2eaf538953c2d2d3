"""Which collectives run as one: each costs a rendezvous of its group, whatever its size.

A collective may stand anywhere between what makes its operand and its first user. These windows
are served from the one that closes first: its collective takes with it, to the place where its
window closes, every other one of its kind whose window is open there, nearest closing first, as far
as the bytes allow. (Piercing intervals with the fewest points.)
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

from xdsl.dialects.builtin import i64
from xdsl.ir import Attribute, Block, Operation, SSAValue

from autopar.dialects.autopar import COMBINE
from autopar.dialects.rules.access import operands_of
from autopar.dialects.shard import AllGatherOp, ReduceScatterOp
from autopar.dialects.tensors import element_type, num_bytes
from autopar.dialects.unverified import integer_attr
from autopar.passes.walk import ops_in

from .splats import splat_of

COMBINABLE = frozenset((AllGatherOp, ReduceScatterOp))
"""Collectives that may run as one with others of their kind. (XLA itself makes one of all_reduces,
without copies: `passes/cost/merging.py`.)"""
_SCALES = frozenset({"stablehlo.divide", "stablehlo.multiply", "stablehlo.negate"})
VIEWS = frozenset({"stablehlo.convert", "stablehlo.reshape", "stablehlo.transpose"})


class _Window(NamedTuple):
    op: Operation
    opens: int
    """The first position in the block in front of which the op may stand."""
    closes: int
    """The position of the first op that uses it."""
    size: int
    """Bytes of the full buffer."""


def combine_collectives(
    block: Block, ops: Sequence[Operation], largest: int, total: int, counter: int
) -> int:
    """Moves collectives of at most `largest` bytes together, and marks them to be lowered as one.

    A group's full buffers take at most `total` bytes: they are copied into one, and live from the
    first one's place to the last one's. Gives the next free number of a group.
    """
    small = list(_small(ops, largest))
    if len(small) < 2:
        return counter
    _raise_views(block, small)
    _raise_chains(block, small)
    _sink_views(block, small)
    left = dict(small)
    while left:
        # the last of a chain first: where it goes the window of the one before it closes
        last = [(op, size) for op, size in left.items() if not _has_user(op, left)]
        counter = _combine(block, last, total, counter)
        for op, _ in last:
            del left[op]
    return counter


def _has_user(op: Operation, others: Container[Operation]) -> bool:
    return any(use.operation in others for use in op.results[0].uses)


def _combine(block: Block, ops: Sequence[tuple[Operation, int]], total: int, counter: int) -> int:
    """Groups collectives of which none uses another, given with their sizes."""
    at, order = _positions(block)
    kinds: dict[tuple[Attribute | str, ...], list[_Window]] = {}
    for window in _windows(block, ops, order):
        kinds.setdefault(_kind(window.op), []).append(window)
    groups = [group for windows in kinds.values() for group in _groups(windows, total)]
    # In the order of their places: what stands there may be a collective of another group, which
    # has not been moved then, since its own window opens behind this place.
    for members in sorted(groups, key=lambda group: group[0].closes):
        place = at[members[0].closes]
        number = integer_attr(counter, i64)
        for member in sorted(members, key=lambda window: order[id(window.op)]):
            member.op.attributes[COMBINE] = number
            member.op.detach()
            block.insert_op_before(member.op, place)
        counter += 1
    return counter


def _kind(op: Operation) -> tuple[Attribute | str, ...]:
    """What collectives that run as one have in common."""
    parts = [op.properties.get(name) for name in ("grid", "grid_axes", "reduction")]
    known = [part for part in parts if part is not None]
    return (op.name, *known, element_type(op.operands[0].type))


def _small(ops: Sequence[Operation], largest: int) -> Iterator[tuple[Operation, int]]:
    """The collectives that may be combined whose full buffer has at most `largest` bytes, and its
    size."""
    for op in ops:
        if type(op) in COMBINABLE:
            (value,), (result,) = operands_of(op), op.results
            size = max(num_bytes(value.type), num_bytes(result.type))
            if size <= largest:
                yield op, size


def _windows(
    block: Block, ops: Sequence[tuple[Operation, int]], order: Mapping[int, int]
) -> list[_Window]:
    """`order`: the positions of the block's ops, by their identity."""
    windows: list[_Window] = []
    for op, size in ops:
        (value,), (result,) = operands_of(op), op.results
        maker = value.owner
        opens = 0
        if isinstance(maker, Operation) and maker.parent is block:
            opens = order[id(maker)] + 1
        closes = _first_user(result, block, order)
        if opens <= closes < len(order):
            windows.append(_Window(op, opens, closes, size))
    return windows


def _groups(windows: Sequence[_Window], total: int) -> list[list[_Window]]:
    """Groups of two and more; the first member of each is the one that closes first."""
    left = sorted(windows, key=lambda window: window.closes)
    groups: list[list[_Window]] = []
    while left:
        place = left[0].closes
        size = 0
        members: list[_Window] = []
        others: list[_Window] = []
        for window in left:
            fits = not members or size + window.size <= total
            if window.opens <= place and fits:
                members.append(window)
                size += window.size
            else:
                others.append(window)
        if len(members) > 1:
            groups.append(members)
        left = others
    return groups


def _positions(block: Block) -> tuple[list[Operation], dict[int, int]]:
    """The ops of a block in order, and the position of each by its identity."""
    ops = list(ops_in(block))
    return ops, dict(zip(map(id, ops), range(len(ops)), strict=True))


def _first_user(value: SSAValue, block: Block, order: Mapping[int, int]) -> int:
    """Position in the block of the first op that uses the value (itself or in a region of it)."""
    first = len(order)
    for use in value.uses:
        op: Operation | None = use.operation
        while op is not None and op.parent is not block:
            op = op.parent_op()
        if op is not None:
            first = min(first, order[id(op)])
    return first


def _raise_views(block: Block, ops: Sequence[tuple[Operation, int]]) -> None:
    """Moves what only converts or reshapes a collective's operand up to where that is made, and
    what only scales an argument up to the front, with the constants that it scales by.

    A bias that lies split is reshaped where it is added, and an old moment is scaled where its
    gradient is: their windows would open only there. What another collective gives stays: it is to
    move down with that.
    """
    collectives = {op for op, _ in ops}
    for op, _ in ops:
        chain, maker = _chain(operands_of(op)[0], block, _only_source)
        if isinstance(maker, Operation):  # scaled, it would live beside itself from there on
            chain, maker = _chain(operands_of(op)[0], block, _viewed)
        if maker in collectives or not chain:
            continue
        for view in chain:  # the last one first: each in front of those that read it
            _move_behind(block, view, maker)
        for constant in (made for view in chain for made in _constants(view, block)):
            constant.detach()
            _insert_first(block, constant)


def _chain(
    value: SSAValue, block: Block, source_of: Callable[[SSAValue, Block], SSAValue | None]
) -> tuple[list[Operation], Operation | Block]:
    """The ops that make a value of a source, the last one first, and what makes the source."""
    chain: list[Operation] = []
    while (source := source_of(value, block)) is not None:
        chain.append(cast(Operation, value.owner))
        value = source
    return chain, value.owner


def _insert_first(block: Block, op: Operation) -> None:
    first = block.first_op
    assert first is not None
    block.insert_op_before(op, first)


def _viewed(value: SSAValue, block: Block) -> SSAValue | None:
    """What a value is another form of."""
    op = value.owner
    if not isinstance(op, Operation) or op.parent is not block or op.name not in VIEWS:
        return None
    return op.operands[0]


def _only_source(value: SSAValue, block: Block) -> SSAValue | None:
    """What a value is another form of, or with a constant another scale."""
    op = value.owner
    if not isinstance(op, Operation) or op.parent is not block or op.name not in _SCALES:
        return _viewed(value, block)
    sources = [operand for operand in op.operands if splat_of(operand) is None]
    return sources[0] if len(sources) == 1 else None


def _constants(op: Operation, block: Block) -> Iterator[Operation]:
    """The splats of a block that an op reads, each followed by what it is broadcast from."""
    left = [operand.owner for operand in op.operands if splat_of(operand) is not None]
    while left:
        maker = left.pop()
        if isinstance(maker, Operation) and maker.parent is block:
            yield maker
            left += [operand.owner for operand in maker.operands]


def _raise_chains(block: Block, ops: Sequence[tuple[Operation, int]]) -> None:
    """Moves collectives that others take from, be it in another form, up to where their operands
    are made, and these forms behind them.

    Where a gradient is scattered over one axis and reduced over another in front of its use, or a
    bias gathered over one, reshaped and gathered over the other, the window of the second
    collective would open only there, behind the first use of the next one.
    """
    small = dict(ops)
    sources = {op: _chain(operands_of(op)[0], block, _viewed) for op in small}
    feeders = {maker for _, maker in sources.values()}.intersection(small)
    for op, (chain, maker) in sources.items():
        if maker in feeders:
            for view in chain:
                _move_behind(block, view, maker)
        if op in feeders:
            _move_behind(block, op, chain[0] if chain else maker)


def _move_behind(block: Block, op: Operation, maker: Operation | Block) -> None:
    """Behind what makes its operand; to the front where that is no op of the block."""
    op.detach()
    if isinstance(maker, Operation) and maker.parent is block:
        block.insert_op_after(op, maker)
    else:
        _insert_first(block, op)


def _sink_views(block: Block, ops: Sequence[tuple[Operation, int]]) -> None:
    """Moves what only converts or reshapes a collective's result down to the first use of that.

    A gradient that is reduced in bfloat16 is converted by the next op, which would close its window
    at once.
    """
    at, order = _positions(block)
    small = dict(ops)
    moves: list[tuple[list[Operation], Operation]] = []
    for op in small:
        value: SSAValue = op.results[0]
        chain: list[Operation] = []
        while value.has_one_use() and (user := _only_user(value)).name in VIEWS:
            if user.parent is not block:
                break
            chain.append(user)
            value = user.results[0]
        first = _first_user(value, block, order)
        if chain and first < len(at) and at[first] not in small:  # which is to move up
            moves.append((chain, at[first]))
    for chain, target in moves:
        for op in chain:
            op.detach()
            block.insert_op_before(op, target)


def _only_user(value: SSAValue) -> Operation:
    (use,) = value.uses
    return use.operation
