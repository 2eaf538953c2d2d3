"""Sharding rules: how the dimensions of an op's operands and results share factors.

A rule is the factor model of Shardy (https://openxla.org/shardy/sharding_propagation), as in
einsum: a matmul is `([i, k], [k, j]) -> ([i, j])`. Each tensor dimension is a list of factors,
major to minor; a grid axis on a factor splits every dimension that holds it. Propagation, strategy
enumeration, cost and partitioning read this one description of an op.

Beyond Shardy, a rule says how *partial* results pass through the op (`linear`, `moves_data`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from xdsl.ir import Operation


class FactorKind(Enum):
    """What happens when a factor is split over a grid axis (Shardy's kinds)."""

    PASS_THROUGH = "pass_through"
    """Every device computes its part; no communication."""
    REDUCTION = "reduction"
    """Absent from the results: each device has a partial result, to be reduced."""
    PERMUTATION = "permutation"
    """The result's parts need data of other devices (slice, pad, reverse, windows, ...)."""
    NEED_REPLICATION = "need_replication"
    """The op cannot run with this factor split; it is replicated first."""


TensorMapping = tuple[tuple[int, ...], ...]
"""For each dimension of a tensor the indices of its factors, major to minor."""


@dataclass(frozen=True, slots=True)
class ShardingRule:
    """The factors of one op instance."""

    factor_sizes: tuple[int, ...]
    operands: tuple[TensorMapping, ...]
    results: tuple[TensorMapping, ...]
    kinds: tuple[FactorKind, ...]
    """One a factor."""
    reducers: tuple[str | None, ...]
    """For each reduction factor the kind of its partial result (`sum`, `max`, ...), else None."""
    blocked: frozenset[int] = frozenset()
    """Factors along which propagation must not spread (partitioning may still split them)."""
    linear: tuple[tuple[int, ...], ...] = ()
    """How sums pass: groups of operands. The op is linear in each group taken jointly, the others
    held fixed: add ((0, 1),), mul ((0,), (1,)), div ((0,),). A group whose members are all partial
    sums over some axes gives results that are partial sums over them."""
    moves_data: bool = False
    """Only moves or copies elements of operands `linear[0]`: partials of any kind pass."""
    accumulated: tuple[int, ...] = ()
    """Operands that a reduction takes once, beside what it reduces (its initial values): where a
    factor that they lack is split, only one device may count them."""
    is_custom: bool = False
    """Given by the user (`sdy.sharding_rule`) or registered for a custom_call."""

    @property
    def num_factors(self) -> int:
        return len(self.factor_sizes)


class RuleBuilder:
    """Builds a rule factor by factor.

    `shapes` are the operands' and results' shapes. Dimensions that no factor covers get a
    factor of their own, of kind NEED_REPLICATION unless `leftover` says otherwise, when built.
    """

    def __init__(
        self, operand_shapes: Sequence[Sequence[int]], result_shapes: Sequence[Sequence[int]]
    ) -> None:
        self._operand_shapes = [tuple(s) for s in operand_shapes]
        self._result_shapes = [tuple(s) for s in result_shapes]
        self._operands: list[list[list[int]]] = [[[] for _ in s] for s in self._operand_shapes]
        self._results: list[list[list[int]]] = [[[] for _ in s] for s in self._result_shapes]
        self._sizes: list[int] = []
        self._kinds: list[FactorKind] = []
        self._reducers: list[str | None] = []
        self._blocked: set[int] = set()

    def factor(
        self,
        operand_dims: Sequence[int | None],
        result_dims: Sequence[int | None],
        size: int,
        kind: FactorKind = FactorKind.PASS_THROUGH,
        *,
        reducer: str | None = None,
        blocked: bool = False,
    ) -> RuleBuilder:
        """Adds a factor to the given dimension of each operand and result (None: not there).

        Factors are appended: on a dimension with several the first added is the most major.
        """
        index = len(self._sizes)
        self._sizes.append(size)
        self._kinds.append(kind)
        self._reducers.append(reducer if kind is FactorKind.REDUCTION else None)
        if blocked:
            self._blocked.add(index)
        for dims, mapping in ((operand_dims, self._operands), (result_dims, self._results)):
            for tensor, dim in enumerate(dims):
                if dim is not None:
                    mapping[tensor][dim].append(index)
        return self

    def reduction(
        self, operand_dims: Sequence[int | None], size: int, reducer: str = "sum"
    ) -> RuleBuilder:
        """Adds a factor that the results do not have."""
        return self.factor(
            operand_dims,
            [None] * len(self._result_shapes),
            size,
            FactorKind.REDUCTION,
            reducer=reducer,
        )

    def build(
        self,
        *,
        linear: tuple[tuple[int, ...], ...] = (),
        moves_data: bool = False,
        accumulated: tuple[int, ...] = (),
        is_custom: bool = False,
        leftover: FactorKind = FactorKind.NEED_REPLICATION,
    ) -> ShardingRule:
        for shapes, mapping, is_operand in (
            (self._operand_shapes, self._operands, True),
            (self._result_shapes, self._results, False),
        ):
            for tensor, shape in enumerate(shapes):
                for dim, size in enumerate(shape):
                    if mapping[tensor][dim]:
                        continue
                    one_hot: list[int | None] = [None] * len(shapes)
                    one_hot[tensor] = dim
                    none_o: list[int | None] = [None] * len(self._operand_shapes)
                    none_r: list[int | None] = [None] * len(self._result_shapes)
                    if is_operand:
                        self.factor(one_hot, none_r, size, leftover)
                    else:
                        self.factor(none_o, one_hot, size, leftover)
        return ShardingRule(
            tuple(self._sizes),
            tuple(tuple(tuple(d) for d in t) for t in self._operands),
            tuple(tuple(tuple(d) for d in t) for t in self._results),
            tuple(self._kinds),
            tuple(self._reducers),
            frozenset(self._blocked),
            linear,
            moves_data,
            accumulated,
            is_custom,
        )


RuleFunction = Callable[[Operation], ShardingRule | None]
"""Gives the rule of an op instance; None where this instance has none (it is replicated)."""
