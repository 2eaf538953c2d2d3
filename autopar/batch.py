"""Which arguments are the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .arguments import ArgumentRoles, Leaf, by_slot


@dataclass(frozen=True)
class Batch:
    """The flat arguments that hold the batch in their first dimension, and how that is known."""

    leaves: frozenset[int] = frozenset()
    why: str = ""
    whole: frozenset[int] = frozenset()
    """Other leaves of the arguments that hold the batch: each microbatch gets them whole."""


def find_batch(
    roles: ArgumentRoles,
    leaves: Sequence[Leaf],
    avals: Sequence[Any],
    following: Mapping[int, int],
    num_args: int,
    *,
    splits: int = 0,
) -> Batch:
    """As `batch_argnums` says, else inferred.

    Inferred: the arguments (of the function) whose arrays do not all come back among the
    results (`following`: the next values of flat arguments) and share one first dimension.
    ValueError asks for `batch_argnums` where that leaves candidates of different batch sizes,
    or, if the batch is to be split into so many microbatches (`splits`), other arguments of the
    batch's size.
    """
    arguments = by_slot(leaves)
    arrays = {s: [i for i in found if avals[i].shape] for s, found in arguments.items()}
    if roles.batch is not None:
        slots = roles.batch.slots(num_args) & arguments.keys()
        if roles.batch.nums and not slots:
            raise ValueError(
                f"batch_argnums={roles.batch.nums}: the call has no such argument with arrays"
            )
        for slot in sorted(slots, key=str):
            if not arrays[slot]:
                raise ValueError(
                    f"batch_argnums={roles.batch.nums}: {roles.label(slot)} is a scalar, "
                    "it has no batch dimension: leave it out"
                )
        chosen = [i for slot in slots for i in arrays[slot]]
        said = _said(roles, slots, "as batch_argnums says")
        if not splits:
            return Batch(frozenset(chosen), said)
        whole = _whole_leaves(chosen, leaves, avals, splits)
        if whole:
            names = ", ".join(f"{leaves[i].name} ({avals[i].shape[0]})" for i in sorted(whole))
            said += f"; whole in every microbatch, of another first dimension: {names}"
        return Batch(frozenset(chosen) - whole, said, whole)
    candidates: dict[Any, int] = {}
    for slot, indices in arrays.items():
        sizes = {avals[i].shape[0] for i in indices}
        comes_back = all(i in following for i in indices)
        if len(sizes) == 1 and not comes_back:
            candidates[slot] = sizes.pop()
    if len(set(candidates.values())) > 1:
        shown = ", ".join(f"{roles.label(n)} ({s})" for n, s in candidates.items())
        raise ValueError(
            "which arguments hold the batch is ambiguous, their first dimensions differ: "
            f"{shown}; say batch_argnums=(…)"
        )
    if not candidates:
        return Batch(why="none found: say batch_argnums=(…)")
    size = next(iter(candidates.values()))
    doubtful = [
        slot
        for slot, indices in list(arrays.items())[1:]  # the first argument is state by custom
        if slot not in candidates and indices and {avals[i].shape[0] for i in indices} == {size}
    ]
    if doubtful and splits:
        shown = ", ".join(roles.label(slot) for slot in doubtful)
        raise ValueError(
            f"which arguments hold the batch is ambiguous: {shown} has the batch's size {size}, "
            "but comes back among the results as state does; say batch_argnums=(…)"
        )
    chosen = [i for slot in candidates for i in arrays[slot]]
    why = "inferred: it does not come back among the results"
    return Batch(frozenset(chosen), _said(roles, candidates, why))


def _whole_leaves(
    chosen: Sequence[int], leaves: Sequence[Leaf], avals: Sequence[Any], count: int
) -> frozenset[int]:
    """The leaves of batch arguments that do not hold the batch: the batch's size is the first
    dimension that most of them share.

    ValueError names a leaf where that is open: no size that most have, or a larger one that could
    be split as well.
    """
    sizes = Counter(avals[i].shape[0] for i in chosen)
    if len(sizes) < 2:
        return frozenset()
    size, often = sizes.most_common(1)[0]
    doubtful = [
        i
        for i in chosen
        if (own := avals[i].shape[0]) != size
        and (2 * often <= len(chosen) or (own > size and own % count == 0))
    ]
    if doubtful:
        shown = ", ".join(f"{leaves[i].name} ({avals[i].shape[0]})" for i in chosen)
        raise ValueError(
            f"num_micro_batches={count}: which size the batch has is ambiguous, the first "
            f"dimensions of the batch's arrays differ: {shown}; pass what holds no examples "
            f"({leaves[doubtful[0]].name}?) as an argument that batch_argnums does not name"
        )
    return frozenset(i for i in chosen if avals[i].shape[0] != size)


def _said(roles: ArgumentRoles, slots: Any, why: str) -> str:
    names = ", ".join(roles.label(s) for s in sorted(slots, key=str))
    return f"{names}, dimension 0 ({why})"
