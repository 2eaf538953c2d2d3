"""Writes the propagated shardings: on arguments, results, ops, and copies of constants."""

from __future__ import annotations

from xdsl.dialects.builtin import ArrayAttr
from xdsl.ir import Operation, OpResult, SSAValue

from autopar.dialects.autopar import (
    SHARDING,
    ShardingAttr,
    set_arg_shardings,
    set_result_shardings,
)
from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.regions import MANUAL
from autopar.dialects.sharding import Sharding

from .classes import CONSTRAINTS, RESHARDS, rank_of
from .engine import Engine, closed_sharding
from .graph import Instance
from .manual import Border, border_sharding, per_value


class Writer:
    """Writes the states of an engine into the IR."""

    def __init__(self, engine: Engine, grid: str) -> None:
        self._engine = engine
        self._graph = engine.graph
        self._grid = grid
        self._attributes: dict[int, ShardingAttr] = {}
        self._lists: dict[tuple[int, ...], ArrayAttr[ShardingAttr]] = {}

    def write(self) -> None:
        graph = self._graph
        self._write_constants()
        self._write_results()
        for op in graph.annotated:
            if op.name in RESHARDS:
                op.attributes.pop(SHARDING, None)
            elif op.name in CONSTRAINTS:
                op.attributes.pop(SHARDING, None)
                op.properties["sharding"] = self._attribute(self._result_state(op))
        self._write_borders()
        slot_of = graph.slot_of
        for func, joined in graph.functions:
            arguments = [self._sharding(slot_of[id(arg)]) for arg in func.body.block.args]
            set_arg_shardings(func, arguments)
            set_result_shardings(func, [self._sharding(slot) for _, slot in joined])

    def _write_results(self) -> None:
        """Shardings of the results of all ops but those of constants."""
        states = self._engine.state_ids
        single: dict[int, ArrayAttr[ShardingAttr]] = {}
        for op, slot in zip(self._graph.ops, self._graph.result_slots, strict=True):
            count = len(op.results)
            if count == 1:
                state = states[slot]
                attribute = single.get(state)
                if attribute is None:
                    attribute = single[state] = self._list((state,))
                op.attributes[SHARDING] = attribute
            elif count:
                op.attributes[SHARDING] = self._list(tuple(states[slot : slot + count]))

    def _result_state(self, op: Operation) -> int:
        (result,) = op.results
        return self._engine.state_id(self._graph.slot_of[id(result)])

    def _attribute(self, state_id: int) -> ShardingAttr:
        found = self._attributes.get(state_id)
        if found is None:
            sharding = closed_sharding(self._engine.state_of_id(state_id), self._grid)
            found = self._attributes[state_id] = ShardingAttr(sharding)
        return found

    def _sharding(self, slot: int) -> Sharding:
        return self._attribute(self._engine.state_id(slot)).data

    def _list(self, ids: tuple[int, ...]) -> ArrayAttr[ShardingAttr]:
        found = self._lists.get(ids)
        if found is None:
            found = self._lists[ids] = ArrayAttr([self._attribute(i) for i in ids])
        return found

    # Constants

    def _write_constants(self) -> None:
        """One copy of a constant expression for each sharding that its uses want."""
        made: dict[tuple[int, ...], Operation] = {}
        last: dict[int, Operation] = {}
        at = tuple[SSAValue, ...].__getitem__  # xDSL's asks first whether the index is a slice
        for user, index, instance, result in self._graph.constant_uses:
            op = instance.written or self._write_instance(instance, made, last)
            value = at(op.results, result)
            if at(operands_of(user), index) is not value:
                user.operands[index] = value
        for copied in self._graph.copied.values():
            if not copied.instances:
                ranks = [rank_of(result) for result in copied.op.results]
                states = tuple([self._engine.open_id(rank) for rank in ranks])
                copied.op.attributes[SHARDING] = self._list(states)

    def _write_instance(
        self, instance: Instance, made: dict[tuple[int, ...], Operation], last: dict[int, Operation]
    ) -> Operation:
        """The op that stands for an instance: the original for the first sharding, else a copy.

        `made`: the ops so far, by original, shardings and operands; `last`: the latest of each
        original.
        """
        original = instance.of.op
        operands = self._written_operands(instance, made, last) if instance.operands else ()
        states = tuple(map(self._engine.state_ids.__getitem__, instance.slots))
        key = (id(original), *states, *map(id, operands))
        op = made.get(key)
        if op is None:
            if id(original) not in last:
                op = original
            else:
                op = original.clone()
                block = original.parent_block()
                assert block is not None
                block.insert_ops_after([op], last[id(original)])
            for index, value in enumerate(operands):
                if op.operands[index] is not value:
                    op.operands[index] = value
            last[id(original)] = made[key] = op
            op.attributes[SHARDING] = self._list(states)
        instance.written = op
        return op

    def _written_operands(
        self, instance: Instance, made: dict[tuple[int, ...], Operation], last: dict[int, Operation]
    ) -> list[SSAValue]:
        """The operands of an instance that is no leaf."""
        operands: list[SSAValue] = []
        # The original's operands may have been replaced by those of its first instance: the
        # index of a result stays.
        for source, value in zip(instance.operands, operands_of(instance.of.op), strict=True):
            if source is None:
                operands.append(value)
            else:
                assert isinstance(value, OpResult)
                op = source.written or self._write_instance(source, made, last)
                operands.append(op.results[value.index])
        return operands

    # Manual computations

    def _write_borders(self) -> None:
        """The shardings of operands and results that stand on manual computations."""
        written: dict[int, tuple[Operation, list[Sharding], list[Sharding]]] = {}
        for manual, slot in self._graph.manual_slots:
            op = manual.op
            entry = written.get(id(op))
            if entry is None:
                ins = [border_sharding(op, i, True) for i in range(len(op.operands))]
                outs = [border_sharding(op, i, False) for i in range(len(op.results))]
                entry = written[id(op)] = (op, ins, outs)
            border = entry[1] if manual.is_entry else entry[2]
            border[manual.index] = Border(manual).written(self._engine.state(slot))
        for op, ins, outs in written.values():
            assert op.name == MANUAL
            for key, shardings in (("in_shardings", ins), ("out_shardings", outs)):
                op.properties[key] = per_value(shardings, op.properties[key])
