"""Strategies that no better solution can use go: reduced-cost fixing.

With messages and prices, every state has an excess: how far above the bound a solution must be that
uses it. Where bound plus excess is not below the best cost known, the state goes.
"""

from __future__ import annotations

import numpy as np

from .arrays import Arrays
from .dual import Dual
from .graph import Graph
from .messages import Messages


def prune(graph: Graph, arrays: Arrays, messages: Messages, dual: Dual, cost: float) -> None:
    """Restricts the graph of `arrays` to what a solution cheaper than `cost` may use.

    `Contradiction` if there is none: then `cost` is optimal.
    """
    unary = arrays.unary + arrays.priced(dual.prices)
    bound = messages.bound(unary) - float(dual.prices @ arrays.limit)
    room = cost - 1.0 - bound + 1e-9 * max(1.0, abs(cost))
    kept = messages.excess(unary) <= room
    for index, node in enumerate(arrays.nodes.tolist()):
        mine = kept[arrays.offsets[index] : arrays.offsets[index + 1]]
        if not mine.all():
            graph.restrict(node, np.flatnonzero(mine))
