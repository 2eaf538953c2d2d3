"""How a value that goes from the microbatch part to the update is put together from microbatches.

The update reads what the whole batch gives: the extreme (or the logical all, any) of the
microbatches' extremes, and the sum of what they sum up over their examples, times what their degree
says: a mean is the mean of the microbatches' means. What is no such sum has no meaning but that of
microbatches: gradients and losses are averaged, anything else is refused.
Where the program does not tell its batch's size apart (bare text), floats are averaged.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from xdsl.dialects.builtin import IntegerType
from xdsl.ir import Block, Operation, SSAValue

from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.tensors import element_type, is_tensor, shape_of

from .batch_flow import CHOICE, BatchFlow, lost_by
from .degrees import UNKNOWN, Degree, Degrees, Special
from .examples import Examples


@dataclass(frozen=True)
class Combination:
    """How microbatches are put together."""

    kind: str
    """Of a reduction (dialects/reductions.py)."""
    scale: float = 1.0
    """What the result is multiplied by."""


_MULTIPLES = ("stablehlo.convert", "stablehlo.divide", "stablehlo.multiply", "stablehlo.negate")
_WORDS = {
    "max": "the maximum over the batch",
    "min": "the minimum over the batch",
    "product": "the product over the batch",
    CHOICE: "a choice from the batch",
}


def no_mean(value: SSAValue, flow: BatchFlow) -> str | None:
    """Of what a value that is made of the batch is made, where this is no sum: as `the maximum over
    the batch`.

    The examples come together in sums; gradients are means by what they are.
    """
    seen: set[SSAValue] = {value}
    stack = [value]
    while stack:
        op = stack.pop().owner
        if not isinstance(op, Operation) or flow.phases.of(op) == "backward":
            continue
        if any(map(flow.is_per_example, op.operands)):
            kind = lost_by(op, flow)
            if kind not in (None, "sum"):
                return _WORDS.get(kind, f"a {kind} over the batch")
            continue
        for other in op.operands:
            if flow.depends(other) and other not in seen:
                seen.add(other)
                stack.append(other)
    return None


def is_gradient(value: SSAValue, flow: BatchFlow, *, of_examples: bool = False) -> bool:
    """Whether the backward phase makes a value, or ops without a phase's name make it of such.

    `of_examples`: also what such ops make of gradients of single examples (`vmap(grad)`): these
    are statistics as any other when it is asked how they are put together.
    """
    seen: set[SSAValue] = {value}
    stack = [value]
    while stack:
        current = stack.pop()
        if not isinstance(current.owner, Operation):
            continue
        phase = flow.phases.of(current.owner)
        if phase == "backward":
            return True
        if phase == "forward":
            continue
        for other in current.owner.operands:
            if not flow.depends(other) or (flow.is_per_example(other) and not of_examples):
                continue
            if other not in seen:
                seen.add(other)
                stack.append(other)
    return False


@dataclass(frozen=True)
class Combiner:
    """Combines what microbatches give for one value."""

    flow: BatchFlow
    examples: Examples
    degrees: Degrees | None
    """None: the program does not tell what comes of the batch's size; floats are averaged."""
    reduction: Literal["mean", "sum"]
    count: int
    state: Collection[int] = frozenset()
    """Results that are next values of arguments."""
    own_sizes: bool = False
    """Whether the model's constants do not tell what comes of the batch's size."""

    def of(self, value: SSAValue) -> Combination:
        """How a crossing value is put together; DiagnosticError where it cannot be."""
        op, flow = value.owner, self.flow
        assert isinstance(op, Operation)
        own = lost_by(op, flow) if any(map(flow.is_per_example, op.operands)) else None
        if own == CHOICE:
            raise DiagnosticError(
                op,
                f"'{op.name}' makes a choice from the batch, which the update reads: microbatches "
                "do not tell what the whole batch gives; make it inside the loss function, or "
                "outside the step",
            )
        if own is not None and own != "sum":
            return Combination(own)
        is_whole = not is_tensor(value.type) or isinstance(element_type(value.type), IntegerType)
        if is_whole:
            return self._of_integer(op, value, own)
        if own is None and (made_of := no_mean(value, flow)) is not None:
            raise DiagnosticError(
                op,
                f"'{op.name}' makes what the update reads of {made_of}, for single microbatches: "
                "their average is not what the whole batch gives; let the update make it, or "
                "return it from the loss function as state",
            )
        if self.degrees is None:
            return Combination("sum", 1.0 if self.reduction == "sum" else 1 / self.count)
        return self._of_float(op, value, self.degrees)

    def _of_float(self, op: Operation, value: SSAValue, degrees: Degrees) -> Combination:
        gradient = is_gradient(value, self.flow)
        in_model = gradient or self.flow.phases.of(op) != "update"
        if in_model and self.reduction == "sum":
            return Combination("sum")
        degree = self.degree_of(value, degrees, in_model)
        is_exact = degree is not UNKNOWN and self._is_straight(value, degrees, in_model)
        means = not shape_of(value.type) and (in_model or self._is_only_returned(value))
        if not (is_exact or gradient or means or (in_model and degree == 0)):
            raise DiagnosticError(
                op,
                f"'{op.name}' makes what the update reads ({value.type}) of statistics of the "
                "batch or of mixed examples, for single microbatches: neither their average nor "
                "their sum is what the whole batch gives; let the update make it of sums over the "
                "batch (a variance: (x**2).mean(0) - x.mean(0)**2), or return it from the loss "
                "function as state",
            )
        if isinstance(degree, Special):
            return Combination("sum", 1 / self.count)
        return Combination("sum", float(self.count) ** (degree - 1))

    def degree_of(self, value: SSAValue, degrees: Degrees, in_model: bool) -> Degree:
        """How a value grows with the batch, as far as the program tells."""
        return UNKNOWN if in_model and self.own_sizes else degrees.of(value)

    def _is_straight(self, value: SSAValue, degrees: Degrees, in_model: bool) -> bool:
        """Whether the whole batch gives the sum of what microbatches give. Inside the model
        microbatches are free to mix their examples."""
        if not degrees.is_straight(value):
            return False
        return in_model or self.flow.sizes == {1} or self._is_by_example(value)

    def _is_by_example(self, value: SSAValue) -> bool:
        """Whether what is summed up for a value belongs to single examples, all of them."""
        seen: set[SSAValue] = {value}
        stack = [value]
        while stack:
            op = stack.pop().owner
            if not isinstance(op, Operation):
                continue
            if not self.examples.joins_alike(op):
                return False
            for other in op.operands:
                reduced = self.flow.depends(other) and not self.flow.is_per_example(other)
                if reduced and other not in seen:
                    seen.add(other)
                    stack.append(other)
        return True

    def _is_only_returned(self, value: SSAValue) -> bool:
        """Whether a scalar is only returned as one, or a multiple of it: it is averaged."""
        stack = [] if shape_of(value.type) else [value]
        returned = bool(stack)
        while stack and returned:
            current = stack.pop()
            for use in current.uses:
                op = use.operation
                if op.name == "func.return":
                    returned &= use.index not in self.state
                elif op.name in _MULTIPLES and not any(
                    self.flow.depends(v) for v in op.operands if v is not current
                ):
                    returned &= use.index == 0 or op.name == "stablehlo.multiply"
                    stack += op.results
                else:
                    returned = False
        return returned

    def _of_integer(self, op: Operation, value: SSAValue, own: str | None) -> Combination:
        if self.degrees is None:
            is_sum = own == "sum" and self.reduction == "sum"
        else:
            in_model = self.flow.phases.of(op) != "update" and not shape_of(value.type)
            straight = in_model or self._is_straight(value, self.degrees, in_model)
            is_sum = self.degrees.of(value) == 1 and (straight or self._is_only_returned(value))
        if is_sum:
            return Combination("sum")
        raise DiagnosticError(
            op,
            f"'{op.name}' makes an integer ({value.type}) of the batch that is no sum over the "
            "examples, for single microbatches, and the update reads it: microbatches are "
            "averaged, and integers have no average; let the update make it of a sum "
            "(`.sum(dtype=jnp.float32)`), or make it inside the loss function",
        )


def take_conversions(crossing: Collection[SSAValue], micro: set[Operation], block: Block) -> bool:
    """Moves conversions of integers to floats into the microbatch part, where nothing else reads
    the integer outside of it; whether there were any."""
    taken = False
    for value in crossing:
        if not isinstance(element_type(value.type), IntegerType):
            continue
        users = {block.find_ancestor_op_in_block(use.operation) for use in value.uses} - micro
        if users and all(
            user is not None
            and user.name == "stablehlo.convert"
            and not isinstance(element_type(user.results[0].type), IntegerType)
            for user in users
        ):
            micro.update(user for user in users if user is not None)
            taken = True
    return taken
