"""Donation and state: what a program may overwrite, and which results are next values of what."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

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


def next_values_by_path(
    leaves: Sequence[Leaf], avals: Sequence[Any], outs: Sequence[Any], paths: Sequence[Any]
) -> dict[int, int]:
    """For each flat argument that a step returns anew the result that holds its next value, by
    their places in the pytrees.

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


def states(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    leaves: Sequence[Leaf],
    avals: Sequence[Any],
    result: Any,
) -> dict[int, int]:
    """For each flat argument that is state the flat result that is its next value, by their places.

    `args` and `kwargs` hold the dynamic arguments, `result` the results' shapes and dtypes. A
    container of an argument goes on in the first container of the results that is built alike,
    down to shapes and dtypes; what has no such container in the leaves at its own keys; an array
    that is an argument by itself in the result of its own position. A float scalar that is an
    argument by itself is none: by its type a loss may be anything's next value.
    """
    found: dict[int, int] = {}
    taken: set[int] = set()
    places: dict[Any, deque[int]] = defaultdict(deque)
    outs = jax.tree.leaves(result)
    for start, node in _containers(result, 0):
        places[_built(node)].append(start)

    def take(first: int, node: Any) -> None:
        size = len(jax.tree.leaves(node))
        for start in places.get(_built(node, avals[first : first + size]), ()):
            if taken.isdisjoint(range(start, start + size)):
                taken.update(range(start, start + size))
                found.update(
                    zip(range(first, first + size), range(start, start + size), strict=True)
                )
                return
        for start, child in _children(node, first):
            if not _is_leaf(child):
                take(start, child)

    first = 0
    for node in (*args, *(kwargs[name] for name in sorted(kwargs))):
        if not _is_leaf(node):
            take(first, node)
        first += len(jax.tree.leaves(node))
    at: dict[Any, int] = {}
    for index, (path, out) in enumerate(jax.tree.leaves_with_path(result)):
        for inside in (jax.tree_util.keystr(path), jax.tree_util.keystr(path[1:])):
            at.setdefault((inside, _kind(out)), index)
        if len(path) == 1:
            at.setdefault((getattr(path[0], "idx", None), _kind(out)), index)
    for index, (leaf, aval) in enumerate(zip(leaves, avals, strict=True)):
        is_float = jnp.issubdtype(aval.dtype, jnp.floating)
        place = leaf.path or (leaf.slot if aval.shape or not is_float else None)
        other = at.get((place, _kind(aval)))
        if place is not None and index not in found and other is not None and other not in taken:
            found[index] = other
            taken.add(other)
    assert all(_kind(avals[a]) == _kind(outs[r]) for a, r in found.items())
    return found


def _is_leaf(node: Any) -> bool:
    return jax.tree_util.treedef_is_leaf(jax.tree.structure(node))


def _children(node: Any, start: int) -> list[tuple[int, Any]]:
    """The parts of a container, and at which leaf each begins."""
    found: list[tuple[int, Any]] = []
    for child in jax.tree.leaves(node, is_leaf=lambda inner: inner is not node):
        found.append((start, child))
        start += len(jax.tree.leaves(child))
    return found


def _containers(node: Any, start: int) -> list[tuple[int, Any]]:
    """All containers in a tree, the outer ones first."""
    if _is_leaf(node):
        return []
    inner = (_containers(child, first) for first, child in _children(node, start))
    return [(start, node), *(place for places in inner for place in places)]


def _built(node: Any, avals: Sequence[Any] | None = None) -> Any:
    leaves = jax.tree.leaves(node) if avals is None else avals
    return jax.tree.structure(node), tuple(map(_kind, leaves))


def match_aliases(
    donated: set[int], following: Mapping[int, int], avals: Sequence[Any], outs: Sequence[Any]
) -> dict[int, int]:
    """For each donated argument the result that takes its buffer.

    Its next value (`following`, of `next_values_by_path`), else a result of its shape and dtype
    that is nobody's next value.
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
