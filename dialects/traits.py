"""Traits that passes read on operations of any dialect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import DYNAMIC_INDEX
from xdsl.ir import Operation
from xdsl.traits import OpTrait
from xdsl.utils.exceptions import VerifyException

from .tensors import is_tensor, shape_of


def compatible_shapes(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether two shapes may be equal at run time (a dynamic one fits every size)."""
    return len(a) == len(b) and all(
        x == y or x == DYNAMIC_INDEX or y == DYNAMIC_INDEX for x, y in zip(a, b, strict=True)
    )


@dataclass(frozen=True)
class Elementwise(OpTrait):
    """Each element of a result depends on the same element of every non-scalar operand."""

    def verify(self, op: Operation) -> None:
        result = op.results[0].type
        if not is_tensor(result):
            return
        expected = shape_of(result)
        for index, operand in enumerate(op.operands):
            shape = shape_of(operand.type)
            if shape and not compatible_shapes(shape, expected):
                raise VerifyException(
                    f"'{op.name}' is elementwise, but operand {index} is {operand.type} "
                    f"and the result is {result}"
                )


@dataclass(frozen=True)
class Collective(OpTrait):
    """Devices exchange data: every device of a group must reach the op."""
