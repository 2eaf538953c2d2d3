"""Where sums over the batch become averages: a loss that is a sum, its gradients, scalar results.

Gradients and float scalars are averaged over the microbatches by what `num_micro_batches` means.
Where the loss is a mean, that is what the whole batch gives. Where it is a sum, the average is its
microbatches-th part, and what the update reads is the sum, as all that it reads is of the whole
batch: `gradient / count` is then right by itself. So a gradient is taken as the average first where
the update puts it together with what does not grow with the batch: parameters, moments, a norm's
bound; and a scalar where it is returned. Another function of a sum (its square, a norm) is that of
the whole batch: the average of what microbatches give is something else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from xdsl.dialects.builtin import IntegerType
from xdsl.ir import Block, Operation, SSAValue

from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.tensors import element_type, is_tensor, shape_of

from .batch_flow import inputs_of
from .crossing import Combiner, is_gradient
from .degrees import UNKNOWN, ZERO, Degree, Degrees, Special, degree_of

_CARRY_ON = (
    "stablehlo.broadcast_in_dim",
    "stablehlo.convert",
    "stablehlo.divide",
    "stablehlo.dot_general",
    "stablehlo.multiply",
    "stablehlo.negate",
    "stablehlo.reduce",
    "stablehlo.reshape",
    "stablehlo.slice",
    "stablehlo.transpose",
)
_INVARIANT = ("stablehlo.compare", "stablehlo.sign", "stablehlo.is_finite")
"""What they give is the same for an average and for the sum, or decided once."""
_PRODUCTS = ("stablehlo.divide", "stablehlo.dot_general", "stablehlo.multiply")


@dataclass(frozen=True)
class Scaling:
    """An operand that is to be multiplied by a number."""

    op: Operation
    index: int
    factor: float


def find_scalings(
    block: Block,
    micro: Collection[Operation],
    crossing: Iterable[SSAValue],
    degrees: Degrees,
    combiner: Combiner,
) -> list[Scaling]:
    """What the update part reads that is to be averaged.

    DiagnosticError where the update divides a gradient by what grows with the batch, and it is not
    told how the gradient does.
    """
    return _Averages(block, degrees, combiner, crossing).follow(micro)


class _Averages:
    def __init__(
        self, block: Block, degrees: Degrees, combiner: Combiner, crossing: Iterable[SSAValue]
    ) -> None:
        self._block = block
        self._before = degrees
        self._combiner = combiner
        self._degrees: dict[SSAValue, Degree] = {}
        """Those of the update part that are not 0."""
        self._known: set[SSAValue] = set()
        self._sums: set[SSAValue] = set()
        """Gradients that grow with the batch, and multiples of such."""
        self._vague: set[SSAValue] = set()
        """Gradients and losses of which it is not known how they grow, and multiples of such."""
        self._averaged: set[SSAValue] = set()
        """What is made of gradients that were averaged."""
        self._found: list[Scaling] = []
        self._summed = combiner.reduction == "sum"
        phases = combiner.flow.phases
        for value in crossing:
            gradient = is_gradient(value, combiner.flow)
            op = value.owner
            in_model = gradient or (isinstance(op, Operation) and phases.of(op) != "update")
            degree = combiner.degree_of(value, degrees, in_model)
            if in_model and self._summed:
                self._know(value, 0.0)
            elif isinstance(degree, Special):
                self._know(value, 0.0)
                if degree is UNKNOWN:
                    self._vague.add(value)
            elif gradient and degree:
                self._sums.add(value)

    def _know(self, value: SSAValue, degree: Degree) -> None:
        self._known.add(value)
        if degree != 0:
            self._degrees[value] = degree

    def _of(self, value: SSAValue) -> Degree:
        return self._degrees.get(value, 0.0) if value in self._known else self._before.of(value)

    def follow(self, micro: Collection[Operation]) -> list[Scaling]:
        last = self._block.last_op
        assert last is not None
        for op in self._block.ops:
            if op is not last and op not in micro:
                self._op(op)
        for index, value in enumerate(last.operands):
            degree = self._of(value)
            if degree in (0, ZERO, UNKNOWN) or isinstance(degree, Special):
                continue
            is_float = is_tensor(value.type) and not isinstance(
                element_type(value.type), IntegerType
            )
            scalar = is_float and not shape_of(value.type) and index not in self._combiner.state
            is_sum = scalar and degree == 1 and self._combiner.flow.depends(value)
            if value in self._sums or is_sum:
                self._scale(last, value, index, degree)
        return self._found

    def _op(self, op: Operation) -> None:
        if not op.results or op.name == "stablehlo.constant":
            return
        inputs = list(inputs_of(op)) if op.regions else list(op.operands)
        sums = [v for v in inputs if v in self._sums]
        vague = [v for v in inputs if v in self._vague]
        degrees = [self._of(v) for v in op.operands]
        if vague and op.name in _PRODUCTS and any(d not in (0, ZERO, UNKNOWN) for d in degrees):
            raise DiagnosticError(
                op,
                f"'{op.name}' puts a gradient or loss together with what grows with the batch (its "
                "size, a count), and whether the loss is a mean or a sum over the batch is not "
                "told: divide inside the loss function, so that the loss is a mean",
            )
        if vague and op.name in _CARRY_ON:
            self._vague.update(op.results)
        whole = op.regions and op.name not in ("stablehlo.reduce", "stablehlo.scatter")
        degree = UNKNOWN if whole else degree_of(op, degrees)
        self._check_averaged(op, inputs)
        if sums and degree is UNKNOWN and op.name in _PRODUCTS and self._is_guarded(op):
            pass  # the sum over a count that is held above 0: both are the whole batch's
        elif sums and degree is UNKNOWN:
            self._average(op, sums)
            if op.name not in _INVARIANT:
                self._averaged.update(op.results)
            without = [0.0 if v in self._sums else self._of(v) for v in op.operands]
            degree = UNKNOWN if whole else degree_of(op, without)
        elif sums and degree not in (0, ZERO):
            self._sums.update(op.results)
        for result in op.results:
            self._know(result, degree)

    def _is_guarded(self, op: Operation) -> bool:
        """Whether a factor or divisor of gradients follows the batch's size, by no power of it."""
        return any(self._of(v) is UNKNOWN for v in op.operands if v not in self._sums)

    def _check_averaged(self, op: Operation, inputs: Iterable[SSAValue]) -> None:
        """An average that is divided by a count of the whole batch would be divided twice."""
        inputs = list(inputs)
        if op.name in _INVARIANT or self._averaged.isdisjoint(inputs):
            return
        self._averaged.update(op.results)
        for value in inputs:
            if value in self._averaged or value in self._sums or self._of(value) in (0, ZERO):
                continue
            raise DiagnosticError(
                op,
                f"'{op.name}' puts a gradient of a sum over the batch, which is averaged over the "
                "microbatches where it meets what does not grow with the batch (a weight, a "
                "bound), together with what does (a count): divide the gradient by it first, or "
                "inside the loss function, so that the loss is a mean",
            )

    def _average(self, op: Operation, sums: Iterable[SSAValue]) -> None:
        """Lets an op read averages, its regions included."""
        for value in dict.fromkeys(sums):
            degree = self._of(value)
            for inner in op.walk():
                for index, operand in enumerate(inner.operands):
                    if operand is value and not isinstance(degree, Special):
                        self._scale(inner, value, index, degree)

    def _scale(self, op: Operation, value: SSAValue, index: int, degree: float) -> None:
        if self._summed:
            return
        self._found.append(Scaling(op, index, float(self._combiner.count) ** -degree))
