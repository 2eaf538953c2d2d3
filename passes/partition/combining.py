"""Which collectives run as one: each costs a rendezvous of its group, whatever its size.

A collective may stand anywhere between what makes its operand and its first user. These windows
are served from the one that closes first: its collective takes with it, to the place where its
window closes, every other one of its kind whose window is open there, nearest closing first, as far
as the bytes allow. (Piercing intervals with the fewest points.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from xdsl.dialects.builtin import IntegerAttr, i64
from xdsl.ir import Attribute, Block, Operation, SSAValue

from autopar.dialects.autopar import COMBINE
from autopar.dialects.shard import AllGatherOp, AllReduceOp, ReduceScatterOp
from autopar.dialects.tensors import element_type, num_bytes


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
    order: dict[Operation, int] = {}
    inner = block.first_op
    while inner is not None:
        order[inner] = len(order)
        inner = inner.next_op
    kinds: dict[tuple[Attribute | str, ...], list[_Window]] = {}
    for window in _windows(block, ops, largest, order):
        kinds.setdefault(_kind(window.op), []).append(window)
    groups = [group for windows in kinds.values() for group in _groups(windows, total)]
    at = list(order)
    # In the order of their places: what stands there may be a collective of another group, which
    # has not been moved then, since its own window opens behind this place.
    for members in sorted(groups, key=lambda group: group[0].closes):
        place = at[members[0].closes]
        for member in sorted(members, key=lambda window: order[window.op]):
            member.op.attributes[COMBINE] = IntegerAttr(counter, i64)
            member.op.detach()
            block.insert_op_before(member.op, place)
        counter += 1
    return counter


def _kind(op: Operation) -> tuple[Attribute | str, ...]:
    """What collectives that run as one have in common."""
    parts = [op.properties.get(name) for name in ("grid", "grid_axes", "reduction")]
    known = [part for part in parts if part is not None]
    return (op.name, *known, element_type(op.operands[0].type))


def _windows(
    block: Block, ops: Sequence[Operation], largest: int, order: Mapping[Operation, int]
) -> list[_Window]:
    windows: list[_Window] = []
    closing: dict[Operation, int] = {}
    for op in ops:
        if not isinstance(op, AllGatherOp | AllReduceOp | ReduceScatterOp):
            continue
        size = max(num_bytes(op.operands[0].type), num_bytes(op.results[0].type))
        if size > largest:
            continue
        maker = op.operands[0].owner
        opens = 0
        if isinstance(maker, Operation) and maker.parent is block:
            # a maker that may move itself stands in front of its first user at the latest
            opens = closing.get(maker, order[maker]) + 1
        closing[op] = closes = _first_user(op.results[0], block, order)
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


def _first_user(value: SSAValue, block: Block, order: Mapping[Operation, int]) -> int:
    """Position in the block of the first op that uses the value (itself or in a region of it)."""
    first = len(order)
    for use in value.uses:
        op: Operation | None = use.operation
        while op is not None and op.parent is not block:
            op = op.parent_op()
        if op is not None:
            first = min(first, order[op])
    return first
