"""Where sums over the batch become averages: a loss that is a sum, its gradients, scalar results.

Gradients and float scalars are averaged over the microbatches by what `num_micro_batches` means.
Where the loss is a mean, that is what the whole batch gives. Where it is a sum, the average is its
microbatches-th part, and what the update reads is the sum, as all that it reads is of the whole
batch: `gradient / count` is then right by itself. So a gradient is taken as the average first where
the update puts it together with what does not grow with the batch: parameters, moments, a norm's
bound; and a scalar where it is returned.
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
            if value in self._sums or (scalar and self._combiner.flow.depends(value)):
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
        if sums and degree is UNKNOWN:
            self._average(op, sums)
            without = [0.0 if v in self._sums else self._of(v) for v in op.operands]
            degree = UNKNOWN if whole else degree_of(op, without)
        elif sums and degree not in (0, ZERO):
            self._sums.update(op.results)
        for result in op.results:
            self._know(result, degree)

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
