"""Which result of a step is the next value of which argument, by data flow."""

from __future__ import annotations

from collections import deque

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, IntegerAttr, i32
from xdsl.dialects.func import FuncOp
from xdsl.ir import BlockArgument, Operation, SSAValue

from autopar.dialects.autopar import (
    ALIASING_OUTPUT,
    BUFFER_DONOR,
    aliases,
    arg_shardings,
    entries_of,
    result_shardings,
)
from autopar.dialects.tensors import shape_of
from autopar.dialects.traits import Elementwise


def next_values_by_flow(func: FuncOp) -> dict[int, int]:
    """For arguments that a step returns anew the result with the new value, by the program alone.

    What shares the argument's buffer (`tf.aliasing_output`); else a result of the argument's type
    that is computed from it element by element. A new parameter is computed so from its optimizer
    state too: what one result alone comes from goes to that result first.
    """
    found = dict(aliases(func))
    last = func.body.block.last_op
    assert last is not None
    taken = set(found.values())
    sources = {
        result: _elementwise_sources(value) - found.keys()
        for result, value in enumerate(last.operands)
        if result not in taken
    }
    while True:
        sure = {
            next(iter(arguments)): result
            for result, arguments in reversed(sources.items())
            if len(arguments) == 1
        }
        if not sure:
            return found
        found |= sure
        for result in sure.values():
            del sources[result]
        for arguments in sources.values():
            arguments.difference_update(sure)


def tie_donors(func: FuncOp) -> None:
    """Gives the buffers of arguments that any result may take (`jax.buffer_donor`) to one each, as
    JAX does itself where nothing says how arguments lie: to the argument's next value, else to the
    first result of its type that is nobody's. Not where the program states that the two lie
    differently."""
    entries = entries_of(func.arg_attrs, len(func.function_type.inputs.data))
    donors = [index for index, entry in enumerate(entries) if BUFFER_DONOR in entry.data]
    if not donors:
        return
    inputs, outputs = func.function_type.inputs.data, func.function_type.outputs.data
    following = next_values_by_flow(func)
    claimed = set(following.values())
    left = deque(result for result in range(len(outputs)) if result not in claimed)
    lie, given = arg_shardings(func), result_shardings(func)
    for index in donors:
        result = following.get(index)
        if result is None:
            result = next((other for other in left if outputs[other] == inputs[index]), None)
            if result is None:
                continue
            left.remove(result)
        own, wanted = lie[index], given[result]
        if own is None or wanted is None or own == wanted:
            data = {key: value for key, value in entries[index].data.items() if key != BUFFER_DONOR}
            data[ALIASING_OUTPUT] = IntegerAttr(result, i32)
            entries[index] = DictionaryAttr(data)
    func.properties["arg_attrs"] = ArrayAttr(entries)


def _elementwise_sources(value: SSAValue) -> set[int]:
    """The function's arguments of the value's type that it is computed from element by element."""
    shape = shape_of(value.type)
    arguments: set[int] = set()
    seen: set[SSAValue] = {value}
    stack: list[SSAValue] = [value] if shape else []
    while stack:
        current = stack.pop()
        if isinstance(current, BlockArgument):
            if current.type == value.type:
                arguments.add(current.index)
        elif isinstance(op := current.owner, Operation) and op.has_trait(Elementwise):
            for operand in op.operands:
                if operand not in seen and shape_of(operand.type) == shape:
                    seen.add(operand)
                    stack.append(operand)
    return arguments
