"""Parts that repeat are decided once, and nothing is lost by it."""

from __future__ import annotations

import numpy as np
import pytest

from autopar.passes.planning.repeats import Edges, Ints, Repeater, Repeats
from autopar.passes.solver.evaluate import evaluate
from autopar.passes.solver.problem import Problem, make_problem
from autopar.passes.solver.solve import solve


def _layers(seed: int, copies: int, width: int) -> tuple[list[Ints], Edges]:
    """Two hubs and copies of a random layer; the last layer is another one."""
    random = np.random.default_rng(seed)
    costs = [random.integers(0, 50, 3) for _ in range(2)]
    edges: dict[tuple[int, int], Ints] = {(0, 1): random.integers(0, 50, (3, 3))}
    sizes = random.integers(2, 4, width)
    layer = [random.integers(0, 50, size) for size in sizes]
    inner = {
        (u, v): random.integers(0, 50, (sizes[u], sizes[v]))
        for v in range(1, width)
        for u in {int(random.integers(v)), v - 1}
    }
    outer = {(hub, v): random.integers(0, 50, (3, sizes[v])) for hub in range(2) for v in (0, 2)}
    for copy in range(copies):
        start = len(costs)
        costs += [own + (copy == copies - 1) * np.arange(len(own)) for own in layer]
        edges.update({(start + u, start + v): table for (u, v), table in inner.items()})
        edges.update({(hub, start + v): table for (hub, v), table in outer.items()})
    return costs, edges


def _problem(costs: list[Ints], edges: Edges) -> Problem:
    return make_problem(
        [(0, 0)] * len(costs),
        [own.tolist() for own in costs],
        [[0] * len(own) for own in costs],
        list(edges),
        [table.reshape(-1).tolist() for table in edges.values()],
    )


def _found(costs: list[Ints], edges: Edges, coupled: set[int]) -> Repeats:
    return Repeater(len(costs), edges).find([own.tobytes() for own in costs], coupled)


def test_copies_that_edges_make_dearer_are_others() -> None:
    costs, edges = _layers(0, copies=9, width=5)
    kinds = [own.tobytes() for own in costs]
    repeater = Repeater(len(costs), edges)
    (one, two) = next(ends for ends in edges if ends[0] >= 2)  # inside the first layer
    later = (one + 2 * 5, two + 2 * 5)  # the same in the third
    alone = repeater.find(kinds, dearer={(one, two): "copied"})
    assert len(alone.kept) == 2 + 3 * 5
    both = repeater.find(kinds, dearer={(one, two): "copied", later: "copied"})
    assert len(both.kept) == 2 + 3 * 5
    assert later[0] in both.stands_for[one]
    differ = repeater.find(kinds, dearer={(one, two): "copied", later: "more"})
    assert len(differ.kept) == 2 + 4 * 5


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_lost(seed: int) -> None:
    costs, edges = _layers(seed, copies=9, width=5)
    repeats = _found(costs, edges, set())
    assert len(repeats.kept) == 2 + 2 * 5  # the hubs, one layer for eight, and the last
    number = {node: index for index, node in enumerate(repeats.kept)}
    of = {copy: number[node] for node in repeats.kept for copy in repeats.stands_for[node]}
    kept = [len(repeats.stands_for[node]) * costs[node] for node in repeats.kept]
    joined: dict[tuple[int, int], Ints] = {}
    for (u, v), table in edges.items():
        ends = of[u], of[v]
        joined[ends] = joined[ends] + table if ends in joined else table
    whole = _problem(costs, edges)
    reduced = solve(_problem(kept, joined))
    expanded = repeats.expanded(reduced.strategies)
    best = solve(whole)
    assert best.optimal
    assert reduced.optimal
    assert reduced.cost == best.cost == evaluate(whole, expanded).cost


def test_copies_that_memory_couples_may_differ_in_any_number() -> None:
    costs, edges = _layers(0, copies=12, width=4)
    repeats = _found(costs, edges, set(range(2, 2 + 12 * 4, 4)))
    sizes = [len(repeats.stands_for[node]) for node in repeats.kept[2::4]]
    assert sum(sizes) == 12
    sums = {0}
    for size in sizes[:-1]:  # of the last layer there is one
        sums |= {size + other for other in sums}
    assert sums == set(range(12))


def test_every_node_is_stood_for_once() -> None:
    costs, edges = _layers(3, copies=6, width=6)
    repeats = _found(costs, edges, {5})
    standing = sorted(copy for copies in repeats.stands_for for copy in copies)
    assert standing == list(range(len(costs)))
