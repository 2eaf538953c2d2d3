"""Parts of a problem that repeat, as layers do, decided once.

Take out the few nodes that very many others meet (the residual stream, which all layers read and
write): what is left falls into components. Two components that cost the same whatever they choose,
between themselves and with the nodes taken out, choose the same in some cheapest solution: one
stands for both, at twice its costs. Nothing is lost by this where memory does not couple them.
Where it does, the cheapest may be that some choose this and others that: then one stands for half
of the copies, one for half of the others, and so on, so that any number of them may differ.

Copies are recognised by order: layers that one program text makes come with their nodes in the same
order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Edges = Mapping[tuple[int, int], Ints]

_FEW = 64
"""The most nodes that are taken out."""
_NONE: Mapping[tuple[int, int], Hashable] = {}


@dataclass(frozen=True)
class Repeats:
    """Which nodes stand for others."""

    stands_for: list[list[int]]
    """Per node the nodes that choose as it does, itself first; empty where another one stands for
    it."""
    parts: list[list[int]]
    """The components, copies among them."""

    @property
    def kept(self) -> list[int]:
        """The nodes that stand for themselves, ascending."""
        return [node for node, copies in enumerate(self.stands_for) if copies]

    def expanded(self, chosen: Sequence[int]) -> list[int]:
        """The choices of all nodes, from those of the kept ones, in order."""
        choices = [0] * len(self.stands_for)
        for node, choice in zip(self.kept, chosen, strict=True):
            for copy in self.stands_for[node]:
                choices[copy] = choice
        return choices


class Repeater:
    """Finds the repeated parts of one graph, for different costs of its nodes.

    `edges` holds what two nodes cost together, (choices of the lower, choices of the higher node).
    """

    def __init__(self, num_nodes: int, edges: Edges) -> None:
        tables = _Tables()
        self.tables: dict[tuple[int, int], int] = {}
        """Per edge the number of its table: equal ones have the same."""
        self._around: list[list[tuple[int, int]]] = [[] for _ in range(num_nodes)]
        for (one, two), table in edges.items():  # (neighbour, table seen from there)
            number = self.tables[one, two] = tables.number(table)
            self._around[one].append((two, tables.number(table.T)))
            self._around[two].append((one, number))

    def find(
        self,
        kinds: Sequence[Hashable],
        coupled: Set[int] = frozenset(),
        dearer: Mapping[tuple[int, int], Hashable] = _NONE,
    ) -> Repeats:
        """The repeated parts, where `kinds` tells per node what it costs, and `dearer` of edges
        what they cost beside their tables: copies have equal ones. Copies of `coupled` nodes may
        have to choose differently."""
        numbers: dict[Hashable, int] = {}
        numbered = [numbers.setdefault(kind, len(numbers)) for kind in kinds]
        extra = {ends: numbers.setdefault(kind, len(numbers)) for ends, kind in dearer.items()}
        alone = [[node] for node in range(len(kinds))]
        best = Repeats(alone, alone)
        for split in self._splits:
            found = split.merged(numbered, coupled, extra)
            if len(found.kept) < len(best.kept):
                best = found
        return best

    @cached_property
    def _splits(self) -> list[_Split]:
        """Without the node that has most neighbours, without the first two, four, …"""
        around = self._around
        order = sorted(range(len(around)), key=lambda node: (-len(around[node]), node))
        counts = [1 << i for i in range(_FEW.bit_length()) if 1 << i <= min(_FEW, len(order))]
        return [_Split(around, set(order[:count])) for count in counts]


class _Tables:
    """Numbers of tables, the same for equal ones."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[tuple[int, ...], bytes], int] = {}

    def number(self, table: Ints) -> int:
        key = table.shape, table.tobytes()
        return self._numbers.setdefault(key, len(self._numbers))


class _Split:
    """The components that are left of a graph without some of its nodes, the hubs."""

    def __init__(self, around: Sequence[Sequence[tuple[int, int]]], hubs: set[int]) -> None:
        self._hubs = hubs
        self._parts = list(_components(around, hubs))
        forms: dict[Hashable, int] = {}
        self._forms = [forms.setdefault(form, len(forms)) for form in self._edges(around)]
        """Per component a number, the same where edges are equal."""
        self._places = {
            node: (index, place)
            for index, component in enumerate(self._parts)
            for place, node in enumerate(component)
        }
        """Of each node that is no hub: the number of its component, its place there."""

    def _edges(self, around: Sequence[Sequence[tuple[int, int]]]) -> Iterator[Hashable]:
        """Per component all edges in it and to the hubs, its nodes numbered by their order."""
        for component in self._parts:
            place = {node: index for index, node in enumerate(component)}
            edges: list[tuple[int, int, int]] = []
            for node in component:
                for other, table in around[node]:
                    if other in self._hubs:
                        edges.append((place[node], ~other, table))
                    elif place[other] < place[node]:
                        edges.append((place[node], place[other], table))
            yield tuple(sorted(edges))

    def merged(
        self, kinds: Sequence[int], coupled: Set[int], dearer: Mapping[tuple[int, int], int]
    ) -> Repeats:
        """Joins components that cost the same."""
        alike: dict[Hashable, list[list[int]]] = defaultdict(list)
        extra = self._by_component(dearer)
        for index, (form, component) in enumerate(zip(self._forms, self._parts, strict=True)):
            own = tuple(sorted(extra.get(index, ())))
            alike[form, tuple([kinds[node] for node in component]), own].append(component)
        stands_for: list[list[int]] = [[] for _ in kinds]
        for hub in self._hubs:
            stands_for[hub] = [hub]
        for copies in alike.values():
            are_coupled = not coupled.isdisjoint(copies[0])
            for group in _halves(copies) if are_coupled else [copies]:
                for nodes in zip(*group, strict=True):
                    stands_for[nodes[0]] = list(nodes)
        return Repeats(stands_for, self._parts)

    def _by_component(
        self, dearer: Mapping[tuple[int, int], int]
    ) -> dict[int, list[tuple[int, int, int]]]:
        """What edges cost beside their tables, their ends named as in `_edges`."""
        found: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for (one, two), kind in dearer.items():
            first, second = self._places.get(one), self._places.get(two)
            inside = first or second
            if inside is not None:
                ends = (first[1] if first else ~one, second[1] if second else ~two)
                found[inside[0]].append((*ends, kind))
        return found


def _halves(copies: list[list[int]]) -> Iterator[list[list[int]]]:
    """Groups of which some together have any number of the copies."""
    while copies:
        half = (len(copies) + 1) // 2
        yield copies[:half]
        copies = copies[half:]


def _components(around: Sequence[Sequence[tuple[int, int]]], hubs: set[int]) -> Iterable[list[int]]:
    """The connected components without the hubs, each ascending, in the order of their first."""
    component = [-1] * len(around)
    groups: dict[int, list[int]] = defaultdict(list)
    for start in range(len(around)):
        if start not in hubs and component[start] < 0:
            component[start] = start
            waiting = [start]
            while waiting:
                node = waiting.pop()
                for other, _ in around[node]:
                    if other not in hubs and component[other] < 0:
                        component[other] = start
                        waiting.append(other)
        if start not in hubs:
            groups[component[start]].append(start)
    return groups.values()
