"""Sharding groups: what their members start with."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from autopar.dialects.autopar import ConstraintOp
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
    torn = {
        slot: slots for slots in graph.groups.values() if _differ(engine, slots) for slot in slots
    }
    if not torn:
        return False
    members: dict[SSAValue, str] = {}
    for op in inner_ops(module):
        slot = graph.slot_of.get(id(op.operands[0])) if op.name == GROUP_OP else None
        if slot in torn:
            members[op.operands[0]] = _demanded_grid(engine, torn[slot])
    for value, grid in members.items():
        sharding = Sharding.fully_replicated(grid, rank_of(value), is_open=True)
        constraint = ConstraintOp(value, sharding)
        insert_after(constraint, value)
        result = constraint.results[0]
        value.replace_uses_with_if(result, lambda use, own=constraint: use.operation is not own)
    return bool(members)


def _demanded_grid(engine: Engine, slots: Sequence[int]) -> str:
    return next(grid for slot in slots if (grid := engine.state(slot).grid) is not None)


def _differ(engine: Engine, slots: Sequence[int]) -> bool:
    return len({engine.initial(slot) for slot in slots if engine.demands(slot)}) > 1
