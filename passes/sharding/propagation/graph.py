"""The program as propagation sees it: slots that hold a sharding, nodes that spread shardings.

A slot is what one sharding belongs to: an SSA value, all targets of a data-flow edge, a function's
result, or one use of a constant expression. Constants (and scalars that are broadcast) are cheap,
so each use decides for itself, as if every user had its own copy; `write_back` makes the copies
that turn out different. Nodes and slots are small integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation

from .manual import Manual
from .profiles import Profiles


@dataclass(eq=False, slots=True)
class CopiedOp:
    """An op of a constant expression, of which each use has a copy."""

    op: Operation
    position: int
    """Its place in the program."""
    is_leaf: bool
    """It reads no copied op and no tensor that could be split: its copies stand alone."""
    instances: list[Instance] = field(default_factory=list["Instance"])


@dataclass(eq=False, slots=True)
class Instance:
    """One use's own copy of an op of a constant expression."""

    of: CopiedOp
    operands: tuple[Instance | None, ...]
    """The instances that the operands come from; None where the operand is a plain value. Of a
    leaf there are none to list."""
    slots: tuple[int, ...]
    written: Operation | None = None
    """The op that stands for it in the end."""


class Notify(dict[int, list[int]]):
    """For each slot the nodes that its change concerns, the last one to visit first.

    They are pushed on a stack in this order: owner, then users from last to first, so that the
    first user is visited first. This is the order of Shardy's driver, and decides conflicts. Listed
    when a slot is first asked for: many never change.
    """

    def __init__(
        self,
        numbers: list[int] | None,
        owners: list[int],
        readers: list[list[int]],
        known: dict[int, list[int]],
    ) -> None:
        """`owners` and `readers` name nodes by what `numbers` gives the final number of; None: they
        name the final numbers."""
        super().__init__(known)
        self._numbers, self._owners, self._readers = numbers, owners, readers

    def __missing__(self, slot: int) -> list[int]:
        owner = self._owners[slot]
        nodes = [] if owner < 0 else [owner]
        nodes += reversed(self._readers[slot])
        if self._numbers is not None:
            nodes = list(map(self._numbers.__getitem__, nodes))
        self[slot] = nodes
        return nodes


@dataclass(eq=False)
class Graph:
    """Slots and nodes of a module."""

    module: ModuleOp
    profiles: Profiles = field(default_factory=Profiles)
    ranks: list[int] = field(default_factory=list[int])
    """For each slot the rank of its tensor."""
    node_slots: list[Sequence[int]] = field(default_factory=list[Sequence[int]])
    """For each node the slots of its operands, then of its results."""
    node_profiles: list[int] = field(default_factory=list[int])
    """For each node how it propagates at each level."""
    notify: Notify = field(default_factory=lambda: Notify([], [], [], {}))
    slot_of: dict[int, int] = field(default_factory=dict[int, int])
    """Slots of SSA values by id(); constant expressions are not in here."""
    edge_slots: set[int] = field(default_factory=set[int])
    """Slots of the targets of data-flow edges."""
    functions: list[tuple[FuncOp, list[tuple[int, int]]]] = field(
        default_factory=list[tuple[FuncOp, list[tuple[int, int]]]]
    )
    """Functions with (slot of the returned value, slot of the result) of each result."""
    ops: list[Operation] = field(default_factory=list[Operation])
    """The ops whose results carry shardings and have slots of their own."""
    result_slots: list[int] = field(default_factory=list[int])
    """For each of `ops` the slot of its first result; those of the others follow it."""
    annotated: list[Operation] = field(default_factory=list[Operation])
    """The ops that the user annotated."""
    copied: dict[int, CopiedOp] = field(default_factory=dict[int, CopiedOp])
    """The ops of constant expressions, by id()."""
    constant_uses: list[tuple[Operation, int, Instance, int]] = field(
        default_factory=list[tuple[Operation, int, Instance, int]]
    )
    """Uses of constant expressions: user, operand index, instance, result index."""
    manual_slots: list[tuple[Manual, int]] = field(default_factory=list[tuple[Manual, int]])
    groups: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """For each slot in a sharding group all slots of the group."""
