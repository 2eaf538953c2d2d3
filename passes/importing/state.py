"""Which result of a step is the next value of which argument, by data flow."""

from __future__ import annotations

from xdsl.dialects.func import FuncOp
from xdsl.ir import BlockArgument, Operation, SSAValue

from autopar.dialects.autopar import aliases
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
