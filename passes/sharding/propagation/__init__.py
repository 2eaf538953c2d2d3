"""Sharding propagation with Shardy's semantics (https://openxla.org/shardy/propagation).

- constraints.py: what the user demands of values, applied first;
- graph.py: the program as slots and nodes; builder.py builds it in one walk, with nodes.py (slots,
  nodes, who wakes whom), copies.py (constants, one a use), classes.py (ops told apart by name) and
  manual.py (the border of manual computations);
- profiles.py, levels.py: along which factors, in which directions a node spreads at which level;
- engine.py: the fixed point, and its order;
- factors.py: one step of one op; axes.py: the algebra of sub-axes;
- write_back.py: what was found, written into the module.
"""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, OpResult

from autopar.dialects.autopar import (
    aliases,
    arg_shardings,
    place_like_arguments,
    result_shardings,
    sharding_of,
)
from autopar.dialects.rules.access import operands_of
from autopar.dialects.shard import adopt_xdsl_ops
from autopar.dialects.sharding import Grid
from autopar.passes.collector import collector_off
from autopar.passes.importing.annotations import grids_of, take_annotations

from .builder import GraphBuilder
from .classes import CONSTRAINTS
from .constraints import ConstraintApplier
from .engine import Engine
from .groups import join_groups, part_members
from .manual import Border, border_sharding
from .write_back import Writer

__all__ = ["propagate_shardings"]


def propagate_shardings(module: ModuleOp) -> None:
    """Gives every value a closed sharding, from those that the user wrote.

    Nothing happens in a module without a grid.
    """
    adopt_xdsl_ops(module)
    grids = grids_of(module)
    if not grids:
        return
    take_annotations(module)
    for func in module.body.block.ops:
        if isinstance(func, FuncOp) and func.body.blocks:
            place_like_arguments(func, aliases(func))
    with collector_off():
        _propagate(module, grids)


def _propagate(module: ModuleOp, grids: dict[str, Grid]) -> None:
    applier = ConstraintApplier(module, grids)
    applier.run()
    engine = Engine(GraphBuilder(module).build(), grids)
    _set_initial(engine, applier)
    if part_members(module, engine):
        engine = Engine(GraphBuilder(module).build(), grids)
        _set_initial(engine, applier)
    join_groups(engine)
    engine.run()
    _clean_boundary(engine)
    Writer(engine, next(iter(grids))).write()


def _set_initial(engine: Engine, applier: ConstraintApplier) -> None:
    graph = engine.graph
    for func, joined in graph.functions:
        _set_arguments(engine, func)
        stated = result_shardings(func)
        for (_, slot), sharding in zip(joined, stated, strict=False):
            if sharding is not None:
                engine.set_initial(slot, sharding)
    for op in graph.annotated:
        if id(op) in graph.copied:
            _set_instances(engine, op)
            continue
        for result in op.results:
            slot = graph.slot_of.get(id(result))
            sharding = sharding_of(result)
            if slot is not None and sharding is not None:
                engine.set_initial(slot, sharding)
    for value, sharding in applier.values.items():
        engine.set_initial(graph.slot_of[value], sharding)
    for user, index, instance, result in graph.constant_uses if applier.uses else ():
        sharding = applier.uses.get((id(user), index))
        if sharding is not None and not engine.is_set(instance.slots[result]):
            engine.set_initial(instance.slots[result], sharding)
    for manual, slot in graph.manual_slots:
        border = border_sharding(manual.op, manual.index, manual.is_entry)
        engine.set_initial(slot, border)
        if manual.is_entry:
            engine.set_initial_state(slot, Border(manual).inside(engine.state(slot)))


def _set_arguments(engine: Engine, func: FuncOp) -> None:
    graph = engine.graph
    args = func.body.block.args
    for argument, sharding in zip(args, arg_shardings(func), strict=True):
        if sharding is not None:
            engine.set_initial(graph.slot_of[id(argument)], sharding)


def _set_instances(engine: Engine, op: Operation) -> None:
    for instance in engine.graph.copied[id(op)].instances:
        for result, slot in zip(op.results, instance.slots, strict=True):
            sharding = sharding_of(result)
            if sharding is not None:
                engine.set_initial(slot, sharding)


def _clean_boundary(engine: Engine) -> None:
    """Function results take the partial sums that a constraint states of the returned value.

    No sub-axes stand on arguments and results of the program but those that the user wrote.
    """
    functions = engine.graph.functions
    for func, joined in functions:
        returned = func.body.block.last_op
        values = () if returned is None else operands_of(returned)
        stated = result_shardings(func)
        for result, (value, slot), sharding in zip(values, joined, stated, strict=False):
            is_constraint = type(result) is OpResult and result.op.name in CONSTRAINTS
            if is_constraint and sharding is None:
                partial = engine.state(value).partial
                engine.set_initial_state(slot, engine.state(slot)._replace(partial=partial))
        if func.sym_name.data == "main" or len(functions) == 1:
            for argument in func.body.block.args:
                engine.drop_open_sub_axes(engine.graph.slot_of[id(argument)])
            for _, slot in joined:
                engine.drop_open_sub_axes(slot)
