"""Putting the ops of a region in the place of the op that has it.

Linked by hand: xDSL's own moves detach and insert op by op, several times slower.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import Block, Operation, SSAValue


def move_body(body: Block, arguments: Sequence[SSAValue], before: Operation) -> list[SSAValue]:
    """Moves the ops of `body` in front of `before`, its arguments replaced by `arguments`.

    Gives the values that its terminator returned; the terminator is gone, `body` empty.
    """
    for argument, value in zip(body.args, arguments, strict=True):
        argument.replace_all_uses_with(value)
    terminator = body.last_op
    assert terminator is not None
    returned = list(terminator.operands)
    terminator.detach()
    terminator.erase()
    ops = list(body.ops)
    body._first_op = body._last_op = None  # pyright: ignore[reportPrivateUsage]
    insert_detached(ops, before)
    return returned


def insert_detached(ops: Sequence[Operation], before: Operation) -> None:
    """Links ops that stand in no block in front of `before`."""
    if not ops:
        return
    block = before.parent
    assert block is not None
    previous = before._prev_op  # pyright: ignore[reportPrivateUsage]
    for op in ops:
        op.parent = block
        op._prev_op = previous  # pyright: ignore[reportPrivateUsage]
        if previous is None:
            block._first_op = op  # pyright: ignore[reportPrivateUsage]
        else:
            previous._next_op = op  # pyright: ignore[reportPrivateUsage]
        previous = op
    assert previous is not None
    previous._next_op = before  # pyright: ignore[reportPrivateUsage]
    before._prev_op = previous  # pyright: ignore[reportPrivateUsage]
