"""What a module holds, as deciding has to know before it begins: one walk for all of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from xdsl.ir import Operation

from autopar.dialects.autopar import SHARDING, STRATEGY
from autopar.passes.walk import SHARDED_BODIES


@dataclass
class Survey:
    """The ops of a module by class, and those of them that state shardings."""

    kinds: set[type[Operation]] = field(default_factory=set[type[Operation]])
    """The classes of ops on tensors."""
    scalar_kinds: set[type[Operation]] = field(default_factory=set[type[Operation]])
    """The classes of ops inside of reductions and the like."""
    stating: list[Operation] = field(default_factory=list[Operation])
    """The ops that state shardings, in program order; of those with an equal `autopar.sharding`
    (one attribute) the first."""
    planned: list[Operation] = field(default_factory=list[Operation])
    """The ops that come with a strategy."""
    _seen: set[int] = field(default_factory=set[int])

    def visit(self, op: Operation, stating: frozenset[type[Operation]]) -> None:
        """Adds the ops inside `op`; `stating` are the classes that state shardings elsewhere than
        in `autopar.sharding`."""
        kinds, found, seen, planned = self.kinds, self.stating, self._seen, self.planned
        for region in op.regions:
            for block in region.blocks:
                inner = block.first_op
                while inner is not None:
                    kind = type(inner)
                    kinds.add(kind)
                    attributes = inner.attributes
                    if STRATEGY in attributes:
                        planned.append(inner)
                    attr = attributes.get(SHARDING)
                    if attr is not None and id(attr) not in seen:
                        seen.add(id(attr))
                        found.append(inner)
                    elif kind in stating:
                        found.append(inner)
                    if inner.regions:
                        if inner.name in SHARDED_BODIES:
                            self.visit(inner, stating)
                        else:
                            self._visit_scalars(inner)
                    inner = inner._next_op  # pyright: ignore[reportPrivateUsage]

    def _visit_scalars(self, op: Operation) -> None:
        kinds = self.scalar_kinds
        for region in op.regions:
            for block in region.blocks:
                inner = block.first_op
                while inner is not None:
                    kinds.add(type(inner))
                    if inner.regions:
                        self._visit_scalars(inner)
                    inner = inner._next_op  # pyright: ignore[reportPrivateUsage]

    def holds(self, *kinds: type[Operation]) -> bool:
        """Whether the module holds an op of one of these classes."""
        return not (self.kinds.isdisjoint(kinds) and self.scalar_kinds.isdisjoint(kinds))


def survey(module: Operation, stating: Iterable[type[Operation]]) -> Survey:
    """Walks the module."""
    found = Survey()
    found.visit(module, frozenset(stating))
    return found
