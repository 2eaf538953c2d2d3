"""The choices of a graph as they stand in decisions that were written down before.

What decisions do not tell (where shared values are read) is chosen by cost, the rest kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopar.dialects.autopar import StrategyAttr
from autopar.dialects.rules.regions import MANUAL
from autopar.dialects.sharding import Sharding

from .plan_graph import PlanGraph


class UnevenError(ValueError):
    """Decisions are not among the choices that the graph compares."""


@dataclass(frozen=True)
class DecidedValues:
    """Shardings and strategies, in the order of a function's arguments and planned ops."""

    arguments: Sequence[Sharding | None]
    results: Sequence[Sequence[Sharding | None]]
    """Of each op."""
    strategies: Sequence[StrategyAttr | None]


def choices_of(graph: PlanGraph, decided: DecidedValues) -> list[int]:
    """The choice of each node. UnevenError where decisions are no choices of the graph: those of
    propagation may split unevenly, or over sub-axes."""
    chosen: dict[int, int] = {}
    for arg, sharding in zip(graph.func.body.block.args, decided.arguments, strict=True):
        _note(graph, chosen, graph.node_of(arg), sharding)
    for op, shardings in zip(graph.places.ops, decided.results, strict=True):
        if op.name == MANUAL:  # lies where it says; where it is brought from there is a choice
            continue
        for result, sharding in zip(op.results, shardings, strict=True):
            _note(graph, chosen, graph.node_of(result), sharding)
    strategy_of = dict(zip(graph.places.ops, decided.strategies, strict=True))
    for op, node in graph.op_nodes:
        strategy = strategy_of[op]
        if strategy is not None:
            factors = [tuple(graph.table.axes(s.factors[f]) for f in range(len(s.factors)))
                       for s in graph.nodes[node].strategies]  # fmt: skip
            if tuple(strategy.data) in factors:
                chosen[node] = factors.index(tuple(strategy.data))
    return _completed(graph, chosen)


def _note(
    graph: PlanGraph, chosen: dict[int, int], node: int | None, sharding: Sharding | None
) -> None:
    if node is None or sharding is None or node in chosen:
        return
    spec, specs = graph.table.spec(sharding).with_partial(()), graph.nodes[node].specs
    if spec not in specs:
        raise UnevenError(
            f"a value lies as {sharding}, but the cost model compares even splits over whole axes"
        )
    chosen[node] = specs.index(spec)


def _completed(graph: PlanGraph, chosen: dict[int, int]) -> list[int]:
    """All choices: those that are not known the cheapest beside the others, again until none
    changes."""
    around = graph.neighbours()
    free = [node for node in range(len(graph.nodes)) if node not in chosen]
    for _ in range(1 + len(free)):
        before = dict(chosen)
        for node in free:
            costs = graph.nodes[node].seconds.copy()
            for other, table in around[node]:
                if other in chosen:
                    costs = costs + table[:, chosen[other]]
                else:
                    costs = costs + table.min(axis=1)
            chosen[node] = int(costs.argmin())
        if chosen == before:
            break
    return [chosen[node] for node in range(len(graph.nodes))]
