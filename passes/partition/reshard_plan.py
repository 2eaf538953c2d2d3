"""The cheapest sequence of collectives from one spec to another.

A* over layouts of one tensor (Hart, Nilsson, Raphael 1968): a state is (axes of each dimension,
partial axes); an edge is one collective (reshard_moves.py) and costs the ring bytes that a device
sends (passes/cost/collectives.py), plus a small cost a step and an axis so that fewer collectives
over fewer axes win ties. Where the order of two collectives changes nothing, the one that leaves
less for the outer axes of the grid wins: these cross the slower links.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import count

from .reshard_moves import Moves, MovesKey, Step
from .specs import AxisTable, Spec

STEP_COST = 64.0
"""Bytes' worth of starting a collective: only breaks ties between sequences of equal traffic."""
SLICE_COST = 1.0
_AXIS_COST = 0.125
"""More of it for each axis that a collective runs over: breaks the ties that are left."""
_WEIGHT = 1000
"""Of a byte over the innermost axis; one more for each axis further out, which breaks ties.
Integers, so that sums are exact: sequences that cost the same do so in any order."""
_FREE = ("all_slice", "to_partial")
_KEPT = 128
"""How many searches are kept: where many pairs are asked for, many have the same target."""


class ReshardPlanner:
    """Plans reshardings on one refined grid; plans are cached by (specs, shape, item size)."""

    def __init__(self, table: AxisTable) -> None:
        self._table = table
        self._cache: dict[tuple[Spec, Spec, tuple[int, ...], int], tuple[Step, ...]] = {}
        self._searches: dict[MovesKey, _Search] = {}

    def plan(
        self, source: Spec, target: Spec, shape: Sequence[int], item_bytes: int
    ) -> tuple[Step, ...]:
        """The cheapest steps from `source` to `target` for a tensor of global `shape`."""
        if source == target:
            return ()
        key = (source, target, tuple(shape), item_bytes)
        steps = self._cache.get(key)
        if steps is None:
            steps = self._cache[key] = self._search(MovesKey.of(*key)).path(source)
        return steps

    def cost(self, source: Spec, target: Spec, shape: Sequence[int], item_bytes: int) -> float:
        """Ring bytes a device sends for the resharding, plus the tie-breaking step costs."""
        steps = self.plan(source, target, shape, item_bytes)
        return sum(step.num_bytes + _overhead(step) for step in steps)

    def _search(self, key: MovesKey) -> _Search:
        """One that may know moves already, from another source."""
        search = self._searches.get(key)
        if search is None:
            if len(self._searches) == _KEPT:
                del self._searches[next(iter(self._searches))]
            search = self._searches[key] = _Search(Moves(self._table, key))
        return search


def _overhead(step: Step) -> float:
    return SLICE_COST if step.kind in _FREE else STEP_COST + _AXIS_COST * len(step.axes)


class _Search:
    """Searches from any source by the same moves; what a move costs is found once."""

    def __init__(self, moves: Moves) -> None:
        self._moves = moves
        self._edges: dict[Spec, list[tuple[int, int, Step]]] = {}

    def path(self, source: Spec) -> tuple[Step, ...]:
        """The cheapest steps from a source."""
        target, tie = self._moves.target, count()
        frontier: list[tuple[int, int, Spec]] = [(0, next(tie), source)]
        best: dict[Spec, int] = {source: 0}
        came_from: dict[Spec, tuple[Spec, Step]] = {}
        done: set[Spec] = set()
        while frontier:
            _, _, state = heapq.heappop(frontier)
            if state in done:
                continue
            if state == target:
                return _way_back(came_from, source, target)
            done.add(state)
            cost = best[state]
            for own, left, step in self._from(state):
                after, new_cost = step.after, cost + own
                if after not in done and new_cost < best.get(after, new_cost + 1):
                    best[after] = new_cost
                    came_from[after] = (state, step)
                    heapq.heappush(frontier, (new_cost + left, next(tie), after))
        raise AssertionError(f"no resharding from {source} to {target}")

    def _from(self, state: Spec) -> list[tuple[int, int, Step]]:
        """The moves from a state: what each costs, the least that is left then, and the step."""
        edges = self._edges.get(state)
        if edges is None:
            least = self._moves.least_bytes
            edges = self._edges[state] = [
                (self._cost(step), _WEIGHT * int(least(step.after)), step)
                for step in self._moves.steps(state)
            ]
        return edges

    def _cost(self, step: Step) -> int:
        """Bytes over several axes count as those over the innermost, where most of them go."""
        out = self._moves.num_axes - 1 - max(step.axes)
        return round(step.num_bytes) * (_WEIGHT + out) + int(_WEIGHT * _overhead(step))


def _way_back(
    came_from: dict[Spec, tuple[Spec, Step]], source: Spec, target: Spec
) -> tuple[Step, ...]:
    path: list[Step] = []
    state = target
    while state != source:
        state, step = came_from[state]
        path.append(step)
    return tuple(reversed(path))
