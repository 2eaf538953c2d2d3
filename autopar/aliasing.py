"""Donation: which arguments a program may overwrite, and with which result."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from typing import Any

from .arguments import Leaf, Marked, Slot, by_slot


def donated_leaves(
    marked: Marked | None,
    leaves: Sequence[Leaf],
    avals: Sequence[Any],
    outs: Sequence[Any],
    num_args: int,
) -> set[int]:
    """Indices of the flat arguments whose buffers the program may take.

    `marked` None: every argument (of the function) that holds arrays and for each of whose arrays
    there is a result of the same shape and dtype, each result counted once.
    """
    arguments = by_slot(leaves)
    if marked is not None:
        wanted = marked.slots(num_args)
        return {i for slot, indices in arguments.items() if slot in wanted for i in indices}
    available = Counter(map(_kind, outs))
    chosen: list[Slot] = []
    for slot, indices in arguments.items():
        needed = Counter(_kind(avals[i]) for i in indices)
        if any(shape for shape, _ in needed) and all(available[k] >= n for k, n in needed.items()):
            available -= needed
            chosen.append(slot)
    return {i for slot in chosen for i in arguments[slot]}


def match_aliases(donated: set[int], avals: Sequence[Any], outs: Sequence[Any]) -> dict[int, int]:
    """For each donated argument the first result of its shape and dtype that is not yet taken."""
    free: dict[Any, deque[int]] = defaultdict(deque)
    for index, out in enumerate(outs):
        free[_kind(out)].append(index)
    result: dict[int, int] = {}
    for index in sorted(donated):
        queue = free[_kind(avals[index])]
        if queue:
            result[index] = queue.popleft()
    return result


def _kind(aval: Any) -> tuple[tuple[int, ...], Any]:
    return tuple(aval.shape), aval.dtype
