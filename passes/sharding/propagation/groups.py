"""Sharding groups: what their members start with."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ModuleOp

from autopar.dialects.autopar import ConstraintOp
from autopar.dialects.rules.access import operands_of
from autopar.dialects.sharding import Sharding
from autopar.passes.walk import inner_ops

from .classes import GROUP_OP, rank_of
from .constraints import insert_after
from .engine import Engine


def join_groups(engine: Engine) -> None:
    """All members of a sharding group start with what one of them demands."""
    for slots in engine.graph.groups.values():
        given = [slot for slot in slots if engine.demands(slot)]
        if given:
            for slot in slots:
                if not engine.demands(slot):
                    engine.copy_initial(given[0], slot)


def part_members(module: ModuleOp, engine: Engine) -> bool:
    """Lets an open constraint stand for each member of a group whose members start differently.

    The constraints are the group from there on, so that each member keeps what the user demands of
    it. Constants stay members. Says whether ops were inserted: the graph is out of date then.
    """
    graph = engine.graph
    torn = {slot for slots in graph.groups.values() if _differ(engine, slots) for slot in slots}
    if not torn:
        return False
    grid = next(iter(engine.grids))
    members = {
        op.operands[0]: None
        for op in inner_ops(module)
        if op.name == GROUP_OP and graph.slot_of.get(id(operands_of(op)[0])) in torn
    }
    for value in members:
        sharding = Sharding.fully_replicated(grid, rank_of(value), is_open=True)
        constraint = ConstraintOp(value, sharding)
        insert_after(constraint, value)
        result = constraint.results[0]
        value.replace_uses_with_if(result, lambda use, own=constraint: use.operation is not own)
    return bool(members)


def _differ(engine: Engine, slots: Sequence[int]) -> bool:
    return len({engine.initial(slot) for slot in slots if engine.demands(slot)}) > 1
