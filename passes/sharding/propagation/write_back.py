"""Writes the propagated shardings: on arguments, results, ops, and copies of constants."""

from __future__ import annotations

from xdsl.dialects.builtin import ArrayAttr
from xdsl.ir import Operation, SSAValue

from autopar.dialects.autopar import (
    SHARDING,
    ShardingAttr,
    set_arg_shardings,
    set_result_shardings,
)
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
        slot_of = graph.slot_of
        state_id, states = self._engine.state_id, self._engine.state_ids
        single: dict[int, ArrayAttr[ShardingAttr]] = {}
        for op in graph.ops:
            results = op.results
            if len(results) != 1:
                if results:
                    self._set(op, tuple([state_id(slot_of[id(result)]) for result in results]))
                continue
            slot = slot_of.get(id(results[0]))
            if slot is None:
                if id(op) not in graph.instances:  # a constant that nothing uses
                    self._set(op, (self._engine.open_id(rank_of(results[0])),))
                continue
            state = states[slot]
            attribute = single.get(state)
            if attribute is None:
                attribute = single[state] = self._list((state,))
            op.attributes[SHARDING] = attribute
        for op in graph.annotated:
            if op.name in CONSTRAINTS or op.name in RESHARDS:
                del op.attributes[SHARDING]
                if op.name in CONSTRAINTS:
                    self._set(op, (state_id(slot_of[id(op.results[0])]),))
        self._write_borders()
        for func, joined in graph.functions:
            arguments = [self._sharding(slot_of[id(arg)]) for arg in func.body.block.args]
            set_arg_shardings(func, arguments)
            set_result_shardings(func, [self._sharding(slot) for _, slot in joined])

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

    def _set(self, op: Operation, ids: tuple[int, ...]) -> None:
        if op.name in CONSTRAINTS:
            op.properties["sharding"] = self._attribute(ids[0])
        else:
            op.attributes[SHARDING] = self._list(ids)

    # Constants

    def _write_constants(self) -> None:
        """One copy of a constant expression for each sharding that its uses want."""
        made: dict[tuple[object, ...], Operation] = {}
        last: dict[int, Operation] = {}
        memo: dict[int, Operation] = {}
        for user, index, instance, result in self._graph.use_instances:
            value = self._materialize(instance, made, last, memo).results[result]
            if user.operands[index] is not value:
                user.operands[index] = value

    def _materialize(
        self,
        instance: Instance,
        made: dict[tuple[object, ...], Operation],
        last: dict[int, Operation],
        memo: dict[int, Operation],
    ) -> Operation:
        """The op that stands for an instance: the original for the first sharding, else a copy."""
        known = memo.get(id(instance))
        if known is not None:
            return known
        original = instance.op
        operands: list[SSAValue] = []
        for value, source in zip(tuple(original.operands), instance.operands, strict=True):
            if source is None:
                operands.append(value)
            else:
                # The original's operands may have been replaced by those of its first instance.
                position = self._result_index(source, value)
                operands.append(self._materialize(source, made, last, memo).results[position])
        ids = tuple(self._engine.state_id(slot) for slot in instance.slots)
        key = (id(original), ids, *map(id, operands))
        op = made.get(key)
        if op is None:
            if id(original) not in last:
                op = original
                for index, value in enumerate(operands):
                    if op.operands[index] is not value:
                        op.operands[index] = value
            else:
                op = original.clone()
                for index, value in enumerate(operands):
                    op.operands[index] = value
                block = original.parent_block()
                assert block is not None
                block.insert_ops_after([op], last[id(original)])
            last[id(original)] = op
            made[key] = op
            self._set(op, ids)
        memo[id(instance)] = op
        return op

    @staticmethod
    def _result_index(source: Instance, value: SSAValue) -> int:
        if len(source.op.results) == 1:
            return 0
        return next(i for i, result in enumerate(source.op.results) if result is value)

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
