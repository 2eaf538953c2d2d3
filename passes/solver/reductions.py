"""Exact reductions: a smaller problem with the same least cost, and the way back (`Graph.expand`).

Rules, each tried again where a neighbour changed: a strategy that every choice of a neighbour
forbids goes (arc consistency); a node with one strategy is fixed; where each strategy of u leaves
one at v, v is folded into u, its memory carried along; an edge whose costs split into two sums goes
into its ends; a strategy that another one beats whatever the neighbours do goes (dead-end
elimination, Goldstein 1994); a node without memory and with two neighbours or fewer is minimised
out (bucket elimination, Dechter 1999). Live sets that cannot overflow are forgotten.
"""

from __future__ import annotations

import numpy as np

from .graph import Contradiction, Floats, Graph, Ints, merged_rows

_MOST_PAIRS = 1 << 16
"""Entries of the edge that minimising a node out may make."""
_MOST_COMPARED = 1 << 22
"""Numbers that comparing all strategies of a node over one edge may take."""
_SAMPLES = 8
"""Choices of a neighbour at which pairs of strategies are compared before they are at all."""


def reduce_graph(graph: Graph) -> None:
    """Applies all rules until none changes anything; `Contradiction` where no choice is left."""
    size = -1
    forget_slack(graph)
    while size != (size := _size(graph)):
        propagate(graph)
        forget_slack(graph)
        drop_dominated(graph)
        propagate(graph)
        minimise_out(graph)


def _size(graph: Graph) -> int:
    """Falls with every reduction that matters."""
    return len(graph.limit) + sum(
        graph.size(v) + len(graph.spans[v]) + len(graph.adjacent[v]) for v in graph.nodes
    )


# ---- arc consistency, fixing, folding ------------------------------------------------------------


def propagate(graph: Graph) -> None:
    """Arc consistency, fixing, folding and splitting of edges, where nodes were touched."""
    while graph.touched:
        for node in sorted(graph.touched):
            graph.touched.discard(node)
            if graph.alive[node]:
                _visit(graph, node)


def _visit(graph: Graph, node: int) -> None:
    if graph.size(node) == 1:
        graph.fix(node)
        return
    for other in sorted(graph.adjacent[node]):
        if not graph.alive[node]:
            return
        if graph.size(node) == 1 or graph.size(other) == 1:
            graph.touch(node, other)
        elif other in graph.adjacent[node]:
            _visit_edge(graph, node, other)


def _visit_edge(graph: Graph, u: int, v: int) -> None:
    matrix = graph.adjacent[u][v]
    finite = np.isfinite(matrix)
    if finite.all():
        _split_edge(graph, u, v, matrix)
        return
    rows = np.logical_or.reduce(finite, axis=1)
    columns = np.logical_or.reduce(finite, axis=0)
    if not rows.all() or not columns.all():
        if not rows.all():
            graph.restrict(u, np.flatnonzero(rows))
        if not columns.all():
            graph.restrict(v, np.flatnonzero(columns))
        return
    one_at_v = int(finite.sum()) == matrix.shape[0]
    one_at_u = int(finite.sum()) == matrix.shape[1]
    if one_at_v and one_at_u and len(graph.adjacent[u]) < len(graph.adjacent[v]):
        one_at_v = False  # the one with fewer edges moves
    if one_at_v:
        graph.fold(v, u, finite.argmax(axis=1))
    elif one_at_u:
        graph.fold(u, v, finite.argmax(axis=0))


def _split_edge(graph: Graph, u: int, v: int, matrix: Floats) -> None:
    """An edge whose costs are a sum of one at u and one at v is none."""
    at_u, at_v = matrix[:, 0], matrix[0] - matrix[0, 0]
    if np.array_equal(at_u[:, None] + at_v, matrix):
        graph.drop_edge(u, v)
        graph.add_cost(u, at_u)
        graph.add_cost(v, at_v)


# ---- memory --------------------------------------------------------------------------------------


def forget_slack(graph: Graph) -> None:
    """Books what every strategy of a node takes; forgets live sets that cannot overflow any more,
    and those that another one contains. Drops strategies that never fit."""
    least_load(graph)
    if (graph.limit < 0).any():
        raise Contradiction
    _drop_unfit(graph)
    keep = _loads(graph, greatest=True) > graph.limit
    keep &= _not_contained(graph, keep)
    if not keep.all():
        _keep_live_sets(graph, keep)


def least_load(graph: Graph) -> None:
    """Moves what all strategies of a node take at least from its rows to the limit."""
    steps = np.zeros(len(graph.limit) + 1, np.int64)
    for node in graph.nodes:
        if not len(graph.spans[node]):
            continue
        graph.spans[node], rows = merged_rows(graph.spans[node], graph.usages[node])
        graph.usages[node] = rows
        least = rows.min(axis=1)
        if least.any():
            np.add.at(steps, graph.spans[node][:, 0], least)
            np.subtract.at(steps, graph.spans[node][:, 1], least)
            rows = rows - least[:, None]
            used = rows.any(axis=1)
            graph.spans[node], graph.usages[node] = graph.spans[node][used], rows[used]
            graph.touch(node)
    graph.limit = graph.limit - np.cumsum(steps[:-1])


def _loads(graph: Graph, *, greatest: bool) -> Ints:
    """(T,): the sum over nodes of what their rows take at most (or at least)."""
    steps = np.zeros(len(graph.limit) + 1, np.int64)
    for node in graph.nodes:
        if len(graph.spans[node]):
            rows = graph.usages[node]
            most = rows.max(axis=1) if greatest else rows.min(axis=1)
            np.add.at(steps, graph.spans[node][:, 0], most)
            np.subtract.at(steps, graph.spans[node][:, 1], most)
    return np.cumsum(steps[:-1])


def _drop_unfit(graph: Graph) -> None:
    """A strategy goes that takes more than is left when all others take their least (here: 0)."""
    for node in graph.nodes:
        spans, rows = graph.spans[node], graph.usages[node]
        if not len(spans):
            continue
        least = np.array([graph.limit[a:b].min() for a, b in spans])
        fits = (rows <= least[:, None]).all(axis=0)
        if not fits.all():
            graph.restrict(node, np.flatnonzero(fits))


def _not_contained(
    graph: Graph, keep: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of the kept live sets no kept neighbour contains at a limit as low."""
    born = np.zeros(len(graph.limit) + 1, np.int64)
    dead = np.zeros(len(graph.limit) + 1, np.int64)
    for node in graph.nodes:
        np.add.at(born, graph.spans[node][:, 0], 1)
        np.add.at(dead, graph.spans[node][:, 1], 1)
    births, deaths = np.cumsum(born), np.cumsum(dead)
    stack: list[int] = []
    for t in np.flatnonzero(keep).tolist():
        while stack and births[t] - births[stack[-1]] >= 0:
            last = stack[-1]
            if deaths[t] == deaths[last] and graph.limit[t] <= graph.limit[last]:
                stack.pop()  # all that lives then lives now
                continue
            break
        if stack and births[t] == births[stack[-1]] and graph.limit[t] >= graph.limit[stack[-1]]:
            continue  # all that lives now lived then
        stack.append(t)
    result = np.zeros(len(graph.limit), bool)
    result[stack] = True
    return result


def _keep_live_sets(graph: Graph, keep: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
    place = np.concatenate([[0], np.cumsum(keep)])
    for node in graph.nodes:
        if len(graph.spans[node]):
            spans = place[graph.spans[node]]
            real = spans[:, 0] < spans[:, 1]
            if not real.all():
                graph.touch(node)
            graph.spans[node], graph.usages[node] = merged_rows(
                spans[real], graph.usages[node][real]
            )
    graph.limit = graph.limit[keep]


# ---- dominance and elimination -------------------------------------------------------------------


def drop_dominated(graph: Graph) -> None:
    """A strategy goes where another is no dearer, whatever the neighbours do, and takes no more
    memory at any live set; of two equal ones the later."""
    for node in graph.nodes:
        if node in graph.compared:
            continue
        graph.compared.add(node)
        kept = _undominated(graph, node)
        if len(kept) < graph.size(node):
            graph.restrict(node, kept)


def _undominated(graph: Graph, node: int) -> Ints:
    count = graph.size(node)
    matrices = list(graph.adjacent[node].values())
    if count * count * max(_SAMPLES, len(graph.usages[node])) > _MOST_COMPARED:
        return np.arange(count)
    one, other = _perhaps_beaten(graph.unary[node], matrices)
    if len(one) * max((matrix.shape[1] for matrix in matrices), default=1) > _MOST_COMPARED:
        return np.arange(count)
    rows = graph.usages[node]
    if len(rows):
        fits = (rows[:, one] <= rows[:, other]).all(axis=0)
        one, other = one[fits], other[fits]
    more = _most_dearer(graph.unary[node], matrices, one, other)
    beats = np.zeros((count, count), bool)
    beats[one, other] = more <= 0
    both = beats & beats.T
    beats &= ~(both & (np.arange(count)[:, None] > np.arange(count)))
    return np.flatnonzero(~beats.any(axis=0))


def _perhaps_beaten(cost: Floats, matrices: list[Floats]) -> tuple[Ints, Ints]:
    """Pairs of strategies, all of those among them where the first beats the second: it is no
    dearer where a neighbour's choice is the dearest, or the cheapest, for it, nor at some others.
    """
    with np.errstate(invalid="ignore"):  # not a number: open
        least = cost[:, None] - cost[None, :]
        for matrix in matrices:
            dearest, cheapest = matrix.max(axis=1), matrix.min(axis=1)
            bound = np.fmax(dearest[:, None] - dearest, cheapest[:, None] - cheapest)
            bound[np.isnan(bound)] = -np.inf
            least = least + bound
        is_open = ~(least > 0)
    np.fill_diagonal(is_open, False)
    one, other = np.nonzero(is_open)
    some = [matrix[:, :: 1 + matrix.shape[1] // _SAMPLES] for matrix in matrices]
    is_open = ~(_most_dearer(cost, some, one, other) > 0)
    return one[is_open], other[is_open]


def _most_dearer(cost: Floats, matrices: list[Floats], one: Ints, other: Ints) -> Floats:
    """By how much strategies are dearer than others at most, whatever the neighbours do."""
    with np.errstate(invalid="ignore"):  # not a number: beats nothing
        more = cost[one] - cost[other]
        for matrix in matrices:
            difference = matrix[one] - matrix[other]
            difference[np.isnan(difference)] = -np.inf  # both forbidden: never this neighbour's
            more = more + difference.max(axis=1)
    return more


def minimise_out(graph: Graph) -> None:
    """Takes out nodes without memory that have two neighbours or fewer."""
    waiting = set(graph.nodes)
    while waiting:
        node = min(waiting)
        waiting.discard(node)
        if not graph.alive[node] or len(graph.spans[node]) or len(graph.adjacent[node]) > 2:
            continue
        others = list(graph.adjacent[node])
        if len(others) == 2:
            pairs = graph.size(others[0]) * graph.size(others[1])
            if pairs > _MOST_PAIRS or pairs * graph.size(node) > _MOST_COMPARED:
                continue
        graph.eliminate(node)
        waiting.update(others)
