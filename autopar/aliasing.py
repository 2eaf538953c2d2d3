"""Donation: which arguments a program may overwrite, and with which result."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

import jax

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


def next_values(
    leaves: Sequence[Leaf], avals: Sequence[Any], outs: Sequence[Any], paths: Sequence[Any]
) -> dict[int, int]:
    """For each flat argument that a step returns anew the result that holds its next value.

    `paths` are the results' key paths. A result of an argument's shape and dtype is its next value
    if it has the same path in its pytree (`state['w']` and `result[0]['w']`), else if it is the
    first that is left. Each result counts once.
    """
    free: dict[Any, deque[int]] = defaultdict(deque)
    at: dict[Any, deque[int]] = defaultdict(deque)
    for index, (out, path) in enumerate(zip(outs, paths, strict=True)):
        free[_kind(out)].append(index)
        for inside in {jax.tree_util.keystr(path), jax.tree_util.keystr(path[1:])}:
            at[inside, _kind(out)].append(index)
    result: dict[int, int] = {}
    taken: set[int] = set()

    def take(argument: int, queue: deque[int]) -> None:
        while queue and argument not in result:
            index = queue.popleft()
            if index not in taken:
                taken.add(index)
                result[argument] = index

    for index, (leaf, aval) in enumerate(zip(leaves, avals, strict=True)):
        take(index, at[leaf.path, _kind(aval)])
    for index, aval in enumerate(avals):
        take(index, free[_kind(aval)])
    return result


def match_aliases(
    donated: set[int], following: Mapping[int, int], avals: Sequence[Any], outs: Sequence[Any]
) -> dict[int, int]:
    """For each donated argument the result that takes its buffer.

    Its next value (`following`, of `next_values`), else a result of its shape and dtype that is
    nobody's next value.
    """
    claimed = set(following.values())
    free: dict[Any, deque[int]] = defaultdict(deque)
    for index, out in enumerate(outs):
        if index not in claimed:
            free[_kind(out)].append(index)
    result: dict[int, int] = {}
    for index in sorted(donated):
        if index in following:
            result[index] = following[index]
        elif queue := free[_kind(avals[index])]:
            result[index] = queue.popleft()
    return result


def _kind(aval: Any) -> tuple[tuple[int, ...], Any]:
    return tuple(aval.shape), aval.dtype
