"""A program as layers: its ops grouped by JAX's name stack, layers that are alike folded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from xdsl.ir import Attribute, Operation

from autopar.passes.planning.naming import name_stack, pattern, place_of_op

_MANY = 200
"""Rows of a group above which equal ones are told once, wherever they stand."""


class Table:
    """Texts that are told by number, each once."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}

    def number(self, value: Any) -> int:
        return self._numbers.setdefault(value, len(self._numbers))

    @property
    def values(self) -> list[Any]:
        return list(self._numbers)


@dataclass(eq=False)
class Row:
    """One op."""

    kind: int
    type: int
    layout: int
    """Of its first result; -1: nobody's choice."""
    place: int
    strategy: int
    """How it is split, as text; -1 for what follows from operand and result."""
    seconds: float = 0.0
    moves: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    """Collectives that belong to it: (number in the table, bytes)."""
    count: int = 1

    def signature(self) -> tuple[Any, ...]:
        """What is equal for ops that are told once."""
        return self.kind, self.type, self.layout, self.place, self.strategy, tuple(self.moves)

    def as_json(self) -> list[Any]:
        moves = [[number, round(size)] for number, size in self.moves]
        head = [self.kind, self.type, self.layout, self.place, self.strategy]
        return [*head, _microseconds(self.seconds), self.count, moves]


@dataclass(eq=False)
class Group:
    """A layer: ops, and layers in it, in program order."""

    name: str
    items: list[Row | Group] = field(default_factory=list["Row | Group"])
    names: list[str] = field(default_factory=list[str])
    """Of the layers that it stands for, itself first, once it is folded."""
    all_seconds: float = 0.0
    """Of these together."""

    def seconds(self) -> float:
        own = sum(item.seconds if isinstance(item, Row) else item.total() for item in self.items)
        return float(own)

    def total(self) -> float:
        return self.all_seconds or self.seconds()

    def signature(self) -> tuple[Any, ...]:
        inside = tuple(
            item.signature() if isinstance(item, Row) else (len(item.names), *item.signature())
            for item in self.items
        )
        return pattern(self.name), inside

    def fold(self) -> None:
        """Tells what is alike and follows each other once."""
        for item in self.items:
            if isinstance(item, Group):
                item.fold()
        self._fold_rows()
        kept: list[Row | Group] = []
        last: tuple[Any, ...] | None = None
        for item in self.items:
            signature = item.signature() if isinstance(item, Group) else None
            if isinstance(item, Group):
                item.names = item.names or [item.name]
                before = kept[-1] if kept else None
                if signature == last and isinstance(before, Group):
                    before.names.append(item.name)
                    before.all_seconds = before.total() + item.total()
                    continue
                item.all_seconds = item.seconds()
            last = signature
            kept.append(item)
        self.items = kept

    def _fold_rows(self) -> None:
        """Equal rows that follow each other; in large groups all equal ones."""
        anywhere = sum(isinstance(item, Row) for item in self.items) > _MANY
        seen: dict[tuple[Any, ...], Row] = {}
        kept: list[Row | Group] = []
        for item in self.items:
            if isinstance(item, Row):
                have = seen.get(item.signature())
                if have is not None:
                    have.count += item.count
                    have.seconds += item.seconds
                    continue
                if not anywhere:
                    seen.clear()
                seen[item.signature()] = item
            elif not anywhere:
                seen.clear()
            kept.append(item)
        self.items = kept

    def as_json(self) -> dict[str, Any]:
        return {
            "n": self.names or [self.name],
            "s": _microseconds(self.total()),
            "i": [item.as_json() for item in self.items],
        }


def _microseconds(seconds: float) -> float:
    return float(f"{1e6 * seconds:.4g}")


class ProgramTree:
    """The ops of a planned program as layers, to which what its partitioned form does is added."""

    def __init__(self) -> None:
        self.kinds, self.types, self.places, self.strategies = Table(), Table(), Table(), Table()
        self.root = Group("")
        self._groups: dict[tuple[str, ...], Group] = {(): self.root}
        self._rows_at: dict[Attribute, list[Row]] = defaultdict(list)

    def add(self, op: Operation, layout: int, strategy: str) -> None:
        """Adds an op at the end."""
        types = ", ".join(str(result.type) for result in op.results)
        row = self._row(op.name, types, layout, strategy, place_of_op(op))
        self._group(layer_path(op)).items.append(row)
        self._rows_at[op.location].append(row)

    def add_text(self, kind: str, types: str, layout: int, strategy: str) -> None:
        """Adds an op of which no place is known."""
        self.root.items.append(self._row(kind, types, layout, strategy, ""))

    def _row(self, kind: str, types: str, layout: int, strategy: str, place: str) -> Row:
        return Row(
            self.kinds.number(kind),
            self.types.number(types),
            layout,
            self.places.number(place),
            self.strategies.number(strategy) if strategy else -1,
        )

    def charge(self, op: Operation, seconds: float, move: tuple[int, float] | None = None) -> None:
        """Adds what an op of the partitioned program costs to the row of the same place: the first
        that nothing is charged to, or that computes the same."""
        rows = self._rows_at.get(op.location)
        if not rows:
            row = self._row(op.name, "", -1, "", place_of_op(op))
            self._group(layer_path(op)).items.append(row)
            rows = [row]
            self._rows_at[op.location] = rows
        kind = self.kinds.number(op.name)
        same = [row for row in rows if row.kind == kind]
        chosen = _heaviest(rows) if move is not None else (same or rows)[0]
        chosen.seconds += seconds
        if move is not None:
            chosen.moves.append(move)
        elif len(same) > 1:  # the next op of this kind is the next row's
            rows.remove(chosen)
            rows.append(chosen)

    def _group(self, path: tuple[str, ...]) -> Group:
        found = self._groups.get(path)
        if found is None:
            found = self._groups[path] = Group(path[-1])
            self._group(path[:-1]).items.append(found)
        return found

    def as_json(self) -> dict[str, Any]:
        self.root.fold()
        return {
            "kinds": self.kinds.values,
            "types": self.types.values,
            "places": self.places.values,
            "strategies": self.strategies.values,
            "tree": self.root.as_json(),
        }


def _heaviest(rows: Sequence[Row]) -> Row:
    """The row that collectives at its place most likely belong to: the one that costs most."""
    return max(rows, key=lambda row: row.seconds)


def layer_path(op: Operation) -> tuple[str, ...]:
    """The layers around an op, outermost first; the place in the source where it has none."""
    words = [word for word in name_stack(op).split("/")[:-1] if word]
    if words and words[0].startswith("jit("):
        words = words[1:]
    if words:
        return tuple(words)
    place = place_of_op(op)
    return (place,) if place else ()
