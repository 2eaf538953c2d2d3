"""Why a value is sharded as it is, and what the next best choice would cost.

    explainer = Explainer(graph, chosen, limit=limit, demands=demands)
    for explanation in explainer.explain("model.py:41"):
        print(explanation)

Needs a plan graph and a choice for each of its nodes, from the search or from decisions
(`decided.choices_of`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from autopar.dialects.autopar import aliases, sharding_of
from autopar.dialects.rules.regions import MANUAL
from autopar.dialects.tensors import shape_of

from .alternatives import Alternative, Alternatives
from .demands import Demands
from .explain_text import explanation_text
from .links import Links
from .naming import Named, ValueNames, op_label, pattern, place_of_op
from .plan_graph import PlanGraph
from .reasons import Reasons
from .words import dims_of, in_words, layout, listed

_CHANGES = 6
"""Changes that are told of an alternative."""
_NOTHING = 1e-9
"""Seconds that are not told."""
_PRICED = 4
"""Different values of one name that are priced."""
_MEMBERS = 3
"""Values of a place that are named."""


@dataclass(frozen=True)
class Change:
    """What becomes dearer or cheaper."""

    what: str
    seconds: float
    before: str
    """The collectives, where they are known."""
    after: str
    count: int = 1
    """How many alike, as layers have them; `seconds` is of all together."""


@dataclass(frozen=True)
class Other:
    """Another choice, and the best plan known with it."""

    layout: str
    dims: tuple[tuple[str, ...], ...]
    """The axes of each dimension; of an op none."""
    seconds: float
    """That a step takes longer."""
    at_least: float | None
    """That it takes longer whatever else is chosen; None where that is not known."""
    bytes: int
    """In use of a device at most, by the planner's estimate."""
    fits: bool
    basis: str
    """replanned: the whole program was planned again with this choice; nearby: what is near to it
    was, so that the seconds are an upper bound."""
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Explanation:
    """Why one value, or one op, is split as it is."""

    name: str
    what: str
    """argument, result, value or op."""
    type: str
    place: str
    layout: str
    dims: tuple[tuple[str, ...], ...]
    words: str
    decided_by: str
    """user, option, only (there is no other choice), follows (from another value), free, search,
    rival (of the search's plan, where its partitioned program takes less), propagation; auto
    (search or option) where the plan is from a file."""
    why: str
    step_seconds: float | None
    """By the search's prices; None where nothing is priced."""
    others: tuple[Other, ...] = ()
    """The cheapest first; those of other choices that may not be are left out."""
    num_choices: int = 0
    count: int = 1
    """How many values of the name are the same but for numbers in their names."""
    also: tuple[str, ...] = ()
    """Other values of the name that are the same choice."""
    partitioned_seconds: float | None = None
    """Of a step of the plan's partitioned program, where they are known."""
    note: str = ""
    """Why nothing is priced, where that is so."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return explanation_text(self)


class Explainer:
    """Explains the values of one planned function."""

    def __init__(
        self,
        graph: PlanGraph,
        chosen: Sequence[int],
        *,
        limit: int | None = None,
        demands: Demands | None = None,
        by: str = "search",
        partitioned_seconds: float | None = None,
        stated_by: str = "the program",
        arguments: Sequence[str] = (),
        results: Sequence[str] = (),
    ) -> None:
        self._graph, self._by = graph, by
        self._partitioned_seconds = partitioned_seconds
        self.names = ValueNames(graph.func, graph.places.ops, arguments, results)
        self.alternatives = Alternatives(graph, chosen, limit)
        self._links = Links(graph, self.names)
        self._reasons = Reasons(graph, demands or Demands(), self.names, stated_by)
        self._node_of_op = dict(graph.op_nodes)
        self._argument_of = {result: argument for argument, result in aliases(graph.func)}
        self._members: dict[int, list[Operation]] = defaultdict(list)
        for op in graph.places.ops:
            for result in op.results:
                node = graph.node_of(result)
                if node is not None:
                    self._members[node].append(op)

    def explain(self, name: str) -> list[Explanation]:
        """Of all that a name means; what is one choice, and what differs in numbers of layers
        only, together. UnknownValueError where it means nothing."""
        found: dict[tuple[str, ...], Explanation] = {}
        nodes: dict[tuple[str, ...], int | None] = {}
        keys: dict[int, tuple[str, ...]] = {}
        for named in self.names.find(name):
            for one, node in self._described(named):
                key = _key(one)
                if key in found:
                    found[key] = replace(found[key], count=found[key].count + 1)
                elif one.what == "value" and node in keys:
                    have = found[keys[node]]
                    found[keys[node]] = replace(have, also=(*have.also, one.name))
                else:
                    found[key], nodes[key] = one, node
                    if node is not None:
                        keys.setdefault(node, key)
        told = {key: one for key, one in found.items() if one.decided_by != "free"} or found
        priced = [*told][:_PRICED]
        return [self._priced(one, nodes[k]) if k in priced else one for k, one in told.items()]

    def every_argument(self) -> list[Explanation]:
        """Of each argument, with what is near to it priced; equal layers are priced once."""
        others: dict[tuple[str, ...], tuple[Other, ...]] = {}
        rows: list[Explanation] = []
        for named in self.names.every_argument():
            for one, node in self._described(named):
                key = _key(one)
                if key not in others:
                    others[key] = self._priced(one, node, replans=0).others
                rows.append(replace(one, others=others[key]))
        return rows

    # ---- what and why

    def _described(self, named: Named) -> list[tuple[Explanation, int | None]]:
        """Explanations without prices, and the nodes whose choices are to be priced."""
        found: list[tuple[Explanation, int | None]] = []
        if named.op is not None and named.op in self._node_of_op:
            found.append(self._of_op(named.op))
        if named.value is not None:
            found.append(self._of_value(named, named.value))
        return found

    def _of_op(self, op: Operation) -> tuple[Explanation, int]:
        node = self._node_of_op[op]
        strategy = self._graph.nodes[node].strategies[self.alternatives.chosen[node]]
        only = self._graph.nodes[node].size == 1
        why = "its sharding rule allows no other way" if only else ""
        explanation = Explanation(
            op_label(op),
            "op",
            ", ".join(str(result.type) for result in op.results),
            place_of_op(op),
            self._strategy_text(node, self.alternatives.chosen[node]),
            (),
            self._strategy_words(node),
            "only" if only else self._by,
            why,
            self.alternatives.seconds,
            num_choices=len(self._graph.nodes[node].strategies),
            partitioned_seconds=self._partitioned_seconds,
        )
        axes = {a for factor in strategy.factors for a in factor}
        idle = [a for a, n in enumerate(self._graph.table.sizes) if n > 1 and a not in axes]
        if idle:
            names = ", ".join(self._graph.table.refined.axis_names[a] for a in idle)
            words = f"{explanation.words}; the devices of {names} do the same"
            explanation = replace(explanation, words=words)
        return explanation, node

    def _of_value(self, named: Named, value: SSAValue) -> tuple[Explanation, int | None]:
        node = self._graph.node_of(value)
        argument = None if named.result is None else self._argument_of.get(named.result)
        if argument is not None:
            node = self._graph.node_of(self._func.body.block.args[argument])
        base = Explanation(
            self._name_of(named, value),
            self._what(named),
            str(value.type),
            self._place(named, value),
            "",
            (),
            "",
            "free",
            "",
            self.alternatives.seconds,
            partitioned_seconds=self._partitioned_seconds,
        )
        manual = self._manual(base, value)
        if manual is not None:
            return manual, None
        if node is None:
            is_scalar = not shape_of(value.type)
            why = "a scalar is whole on every device" if is_scalar else (
                "a constant, or what is broadcast from a scalar: made on each device as its "
                "readers want it"
            )  # fmt: skip
            return replace(base, layout="free", why=why), None
        spec = self._graph.nodes[node].specs[self.alternatives.chosen[node]]
        by, why = self._why(node, value, argument)
        return replace(
            base,
            layout=layout(spec, self._graph.table),
            dims=dims_of(spec, self._graph.table),
            words=in_words(spec, value.type, self._graph.table),
            decided_by=by,
            why=why,
            num_choices=self._graph.nodes[node].size,
        ), node

    def _manual(self, base: Explanation, value: SSAValue) -> Explanation | None:
        """Of what a manual computation gives: it says itself where that lies."""
        is_manual = isinstance(value.owner, Operation) and value.owner.name == MANUAL
        sharding = sharding_of(value) if is_manual else None
        if sharding is None:
            return None
        spec, table = self._graph.table.spec(sharding), self._graph.table
        return replace(
            base,
            layout=layout(spec, table),
            dims=dims_of(spec, table),
            words=in_words(spec, value.type, table),
            decided_by="user",
            why="a shard_map says where its results lie",
        )

    @property
    def _func(self) -> FuncOp:
        return self._graph.func

    def _name_of(self, named: Named, value: SSAValue) -> str:
        if named.result is not None:
            return self.names.results[named.result]
        return self.names.of(value)

    def _what(self, named: Named) -> str:
        if named.argument is not None:
            return f"argument {named.argument} ({self._reasons.kinds[named.argument]})"
        return "value" if named.result is None else f"result {named.result}"

    def _place(self, named: Named, value: SSAValue) -> str:
        op = named.op or (value.owner if isinstance(value.owner, Operation) else None)
        return "" if op is None else place_of_op(op)

    def _why(self, node: int, value: SSAValue, argument: int | None) -> tuple[str, str]:
        """Who decided, and a sentence about it."""
        size = self._graph.nodes[node].size
        said = "; ".join(reason.text for reason in self._reasons.of(node))
        if said:
            by = self._reasons.of(node)[0].by
            why = said if size == 1 else f"{said}; the {self._by} chose among what that leaves"
        elif size == 1:
            by, why = "only", "the grid's axes divide none of its dimensions"
        else:
            by, why = self._by, ""
        if argument is not None:
            name = self.names.arguments[argument]
            rest = why or f"the {by}"
            return "follows", f"it lies where {name} does, whose buffer it takes ({rest})"
        return by, "; ".join(filter(None, (why, self._shared(node, value))))

    def _shared(self, node: int, value: SSAValue) -> str:
        """What lies alike by data flow and elementwise ops."""
        others = [op for op in self._members[node] if op is not value.owner]
        if not others or self._graph.places.is_argument(value):
            return ""
        labels = [*dict.fromkeys(op_label(op) for op in others)]
        return f"one choice with {len(others)} other values: {listed(labels, _MEMBERS)}"

    # ---- strategies

    def _strategy_text(self, node: int, choice: int) -> str:
        strategy, table = self._graph.nodes[node].strategies[choice], self._graph.table
        reads = " x ".join(layout(spec, table) for spec in strategy.operands)
        gives = ", ".join(layout(spec, table) for spec in strategy.results)
        return f"{reads} -> {gives}"

    def _strategy_words(self, node: int) -> str:
        strategy = self._graph.nodes[node].strategies[self.alternatives.chosen[node]]
        axes = [a for factor in strategy.factors for a in factor]
        parts = self._graph.table.parts(axes)
        return f"split into {parts} parts" if parts > 1 else "not split"

    # ---- other choices

    def _priced(
        self, explanation: Explanation, node: int | None, replans: int | None = None
    ) -> Explanation:
        if node is None or explanation.num_choices < 2:
            return explanation
        found = self.alternatives.of(node, replans)
        return replace(explanation, others=tuple(self._other(node, one) for one in found))

    def _other(self, node: int, found: Alternative) -> Other:
        own, table = self._graph.nodes[node], self._graph.table
        base = self.alternatives.seconds
        return Other(
            self._strategy_text(node, found.choice)
            if own.strategies
            else layout(own.specs[found.choice], table),
            () if own.strategies else dims_of(own.specs[found.choice], table),
            found.seconds - base,
            self._at_least(found) if found.replanned else None,
            found.bytes,
            found.fits,
            "replanned" if found.replanned else "nearby",
            self._changes(found),
        )

    def _at_least(self, found: Alternative) -> float:
        """What the search has found is the cheapest, but for a gap; what others have may not be."""
        base = self.alternatives.seconds
        if self._by != "search":
            return found.bound - base
        return min(max(0.0, found.bound - base), found.seconds - base)

    def _changes(self, found: Alternative) -> tuple[Change, ...]:
        """The largest; those of layers that are alike together."""
        merged: dict[tuple[str, str, str], tuple[float, int, str]] = {}
        have = self.alternatives.chosen
        for place, seconds in self.alternatives.changes(found.chosen):
            if abs(seconds) <= _NOTHING:
                continue
            if len(place) == 1:
                key = self._links.node_text(place[0]), "", ""
            else:
                before = self._links.collectives(place, have)
                key = self._links.edge_text(place), before, (
                    self._links.collectives(place, found.chosen)
                )  # fmt: skip
            what, key = key[0], (pattern(key[0]), key[1], key[2])
            total, count, _ = merged.get(key, (0.0, 0, ""))
            merged[key] = total + seconds, count + 1, key[0] if count else what
        changes = [
            Change(what, seconds, before, after, count)
            for (_, before, after), (seconds, count, what) in merged.items()
        ]
        changes.sort(key=lambda change: -abs(change.seconds))
        rest = changes[_CHANGES:]
        if len(rest) > 1:
            total, count = sum(c.seconds for c in rest), sum(c.count for c in rest)
            return (*changes[:_CHANGES], Change("all else", total, "", "", count))
        return tuple(changes)


def _key(one: Explanation) -> tuple[str, ...]:
    what = one.what.rstrip("0123456789") if one.what.startswith("result") else one.what
    kind = pattern(what.replace("argument ", "argument_"))
    return pattern(one.name), kind, one.type, one.layout, one.decided_by, pattern(one.why)
