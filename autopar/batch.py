"""Which arguments are the batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from .methods import Method, ShardParallel


def infer_batch_leaves(
    paths: Sequence[Any],
    leaves: Sequence[Any],
    outs: Sequence[Any],
    batch_argnums: tuple[int, ...] | None,
    static: Sequence[int],
    method: Method,
    *,
    always: bool = False,
) -> set[int]:
    """Indices of the flat arguments that hold the batch in their first dimension.

    With `batch_argnums` all arrays of these arguments. Without, the arguments (of the function)
    whose arrays do not all come back among the results and share one first dimension; where that
    leaves several candidates of different batch sizes, ValueError asks for `batch_argnums`.
    """
    arguments = _by_argument(paths, leaves)
    if batch_argnums is not None:
        shift = [i for i in range(len(arguments) + len(static)) if i not in set(static)]
        wanted = {shift.index(n) for n in batch_argnums if n in shift}
        missing = [n for n in batch_argnums if n not in shift]
        if missing:
            raise ValueError(f"batch_argnums={batch_argnums}: there is no argument {missing[0]}")
        return {i for name in wanted for i in arguments.get(name, ()) if np.ndim(leaves[i])}
    if isinstance(method, ShardParallel) and not always:
        return set()
    returned: dict[Any, int] = defaultdict(int)
    for out in outs:
        returned[(tuple(out.shape), str(out.dtype))] += 1
    candidates: dict[Any, int] = {}
    for name, indices in arguments.items():
        arrays = [i for i in indices if np.ndim(leaves[i])]
        sizes = {np.shape(leaves[i])[0] for i in arrays}
        comes_back = arrays and all(
            returned.get((tuple(np.shape(leaves[i])), str(getattr(leaves[i], "dtype", None))), 0)
            for i in arrays
        )
        if len(sizes) == 1 and not comes_back:
            candidates[name] = sizes.pop()
    if len(set(candidates.values())) > 1:
        shown = ", ".join(f"argument {n} (batch of {s})" for n, s in candidates.items())
        raise ValueError(
            f"which arguments hold the batch is ambiguous: {shown}; say batch_argnums=(…)"
        )
    return {i for name in candidates for i in arguments[name] if np.ndim(leaves[i])}


def _by_argument(paths: Sequence[Any], leaves: Sequence[Any]) -> dict[Any, list[int]]:
    """Flat indices by argument: its position among the dynamic ones, or its keyword."""
    arguments: dict[Any, list[int]] = defaultdict(list)
    for index, path in enumerate(paths):
        where = path[1]
        arguments[getattr(where, "idx", getattr(where, "key", None))].append(index)
    return arguments
