"""One propagation step of one op: shardings of its tensors to factors, factors to shardings.

The strategy is Shardy's "aggressive" one (https://openxla.org/shardy/propagation): the axes of a
factor are the longest list compatible with all tensors that hold it; every tensor then takes as
much as its other factors, closed dimensions and replicated axes allow. Where two factors want the
same axis, the factor that comes from the larger tensor goes first.

A step is a pure function of the rule, the directions and the states of the tensors; the engine
keeps its results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from math import gcd
from typing import NamedTuple

from autopar.dialects.rules.core import ShardingRule, TensorMapping
from autopar.dialects.sharding import Axes, AxisRef, Partial

from .axes import AxisAlgebra


class Direction(IntFlag):
    """In which directions axes may spread through an op along a factor."""

    NONE = 0
    FORWARD = 1
    BACKWARD = 2
    BOTH = 3


class TensorState(NamedTuple):
    """The sharding of a tensor during propagation (no priorities)."""

    grid: str | None
    """None: not annotated, that is open and unsharded."""
    dims: tuple[Axes, ...]
    closed: tuple[bool, ...]
    replicated: Axes = ()
    partial: tuple[Partial, ...] = ()


@dataclass(slots=True)
class _FactorSharding:
    axes: Axes = ()
    overflow: Axes = ()
    """Axes minor to `axes` that the factor cannot hold; nothing may follow them."""
    is_closed: bool = False
    is_minor_most: bool = False


_Tensor = dict[int, _FactorSharding]


@dataclass(frozen=True, slots=True)
class Step:
    """What a propagation step depends on besides the states."""

    rule: ShardingRule
    directions: tuple[Direction, ...]
    """One a factor."""
    is_elementwise: bool
    tensors: tuple[TensorMapping, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", self.rule.operands + self.rule.results)


def propagate_step(
    step: Step, states: Sequence[TensorState], algebra: AxisAlgebra
) -> list[tuple[int, TensorState]]:
    """The tensors (operands, then results) whose state changes, with their new states."""
    grids = {state.grid for state in states if state.grid is not None}
    if len(grids) != 1:
        return []
    grid = grids.pop()
    sizes = step.rule.factor_sizes
    tensors = [
        _project(mapping, state, sizes, algebra)
        for mapping, state in zip(step.tensors, states, strict=True)
    ]
    count = len(step.rule.operands)
    axes = [
        _compatible_axes(index, direction, tensors, count, algebra)
        for index, direction in enumerate(step.directions)
    ]
    if not any(axes):
        return []
    order = _factor_order(step, tensors, axes, algebra)
    updated = _spread(step, range(count, len(tensors)), tensors, states, axes, order, algebra)
    updated |= _spread(step, range(count), tensors, states, axes, order, algebra)
    changes: list[tuple[int, TensorState]] = []
    for index in sorted(updated):
        new = _unproject(step.tensors[index], tensors[index], states[index], grid, sizes, algebra)
        old = states[index]
        if new.dims != old.dims or new.closed != old.closed:
            changes.append((index, new))
    return changes


def _project(
    mapping: TensorMapping, state: TensorState, sizes: tuple[int, ...], algebra: AxisAlgebra
) -> _Tensor:
    """Distributes the axes of each dimension over its factors, major to minor.

    A factor that is not the minor-most takes axes (or major parts of one) while they divide it.
    """
    result: _Tensor = {}
    for factors, dim_axes, is_closed in zip(mapping, state.dims, state.closed, strict=True):
        if len(factors) == 1:
            result[factors[0]] = _FactorSharding(dim_axes, (), is_closed, True)
            continue
        queue = list(dim_axes)
        has_overflow = False
        for factor in factors:
            sharding = result[factor] = _FactorSharding()
            sharding.is_minor_most = factor == factors[-1]
            if has_overflow:
                sharding.is_closed = True
                continue
            sharding.is_closed = is_closed
            if sharding.is_minor_most:
                sharding.axes = tuple(queue)
                break
            taken: list[AxisRef] = []
            remaining = sizes[factor]
            while queue:
                axis = queue[0]
                size = algebra.size(axis)
                common = gcd(remaining, size)
                if size != 1 and common == 1:
                    break
                if size > common:
                    taken.append(algebra.sub_axis(axis.name, axis.pre, common))
                    queue[0] = algebra.sub_axis(axis.name, axis.pre * common, size // common)
                    remaining //= common
                else:
                    taken.append(axis)
                    queue.pop(0)
                    remaining //= size
            sharding.axes = tuple(taken)
            if remaining > 1 and queue:
                has_overflow = True
                sharding.overflow = tuple(queue)
    return result


def _unproject(
    mapping: TensorMapping,
    tensor: _Tensor,
    old: TensorState,
    grid: str | None,
    sizes: tuple[int, ...],
    algebra: AxisAlgebra,
) -> TensorState:
    """The state that the factors' axes make; what would need a strided view is left out."""
    dims: list[Axes] = []
    closed: list[bool] = []
    for factors in mapping:
        axes: list[AxisRef] = []
        is_closed = False
        for factor in factors:
            sharding = tensor[factor]
            is_closed = is_closed or sharding.is_closed
            _extend(axes, sharding.axes, algebra)
            if sharding.overflow:
                _extend(axes, sharding.overflow, algebra)
                break
            if algebra.total(sharding.axes) < sizes[factor]:
                break
        dims.append(tuple(axes))
        closed.append(is_closed)
    return TensorState(grid, tuple(dims), tuple(closed), old.replicated, old.partial)


def _extend(axes: list[AxisRef], more: Axes, algebra: AxisAlgebra) -> None:
    for index, axis in enumerate(more):
        if index == 0:
            algebra.append(axes, axis)
        else:
            axes.append(axis)


def _compatible_axes(
    factor: int, direction: Direction, tensors: list[_Tensor], count: int, algebra: AxisAlgebra
) -> Axes:
    """The longest axes that all tensors with the factor agree on, conflicts ignored.

    Forward, only operands may extend the list, backward only results; the others just limit it.
    """
    if direction is Direction.NONE:
        return ()
    first, second = tensors[:count], tensors[count:]
    if direction is Direction.BACKWARD:
        first, second = second, first
    axes: Axes = ()
    can_expand = True
    for group in (first, second):
        for tensor in group:
            sharding = tensor.get(factor)
            if sharding is not None:
                axes, can_expand = _join(axes, sharding.axes, can_expand, algebra)
        if direction is not Direction.BOTH:
            can_expand = False
    return axes


def _join(old: Axes, new: Axes, can_expand: bool, algebra: AxisAlgebra) -> tuple[Axes, bool]:
    """Common major axes of both lists, with the longer one's rest where they do not conflict.

    Says also whether the result may still grow.
    """
    if not new:
        return old, can_expand
    if not old:
        return (new if can_expand else ()), can_expand
    result: list[AxisRef] = []
    count = min(len(old), len(new))
    for index in range(count):
        before, after = old[index], new[index]
        if before == after:
            result.append(after)
        elif algebra.is_prefix(after, before):
            if index + 1 < len(new):
                return (*result, after), False
            result.append(before)
        elif algebra.is_prefix(before, after):
            if not can_expand or index + 1 < len(old):
                return (*result, before), False
            result.append(after)
        else:
            return tuple(result), False
    result += old[count:]
    if can_expand:
        result += new[count:]
    return tuple(result), can_expand


def _factor_order(
    step: Step, tensors: list[_Tensor], axes: list[Axes], algebra: AxisAlgebra
) -> list[int]:
    """Factors in the order in which they may claim axes: those of the largest source first."""
    sizes = step.rule.factor_sizes
    source_size = [-1] * len(axes)
    source_index = [-1] * len(axes)
    for index, tensor in enumerate(tensors):
        tensor_size = 1
        for factor in tensor:
            tensor_size *= sizes[factor]
        for factor, sharding in tensor.items():
            if (
                axes[factor]
                and tensor_size > source_size[factor]
                and algebra.is_list_prefix(axes[factor], sharding.axes)
            ):
                source_size[factor], source_index[factor] = tensor_size, index
    return sorted(
        range(len(axes)),
        key=lambda f: (
            -source_size[f],
            -algebra.total(axes[f]) if step.is_elementwise else 0,
            source_index[f],
            f,
        ),
    )


def _spread(
    step: Step,
    indices: range,
    tensors: list[_Tensor],
    states: Sequence[TensorState],
    axes: list[Axes],
    order: list[int],
    algebra: AxisAlgebra,
) -> set[int]:
    """Extends the factors of the tensors `indices`; gives those that changed."""
    updated: set[int] = set()
    count = len(step.rule.operands)
    for index in indices:
        tensor = tensors[index]
        state = states[index]
        blocked = state.replicated + tuple(a for p in state.partial for a in p.axes)
        for factor in order:
            sharding = tensor.get(factor)
            if sharding is None or not axes[factor]:
                continue
            new = _truncate_within(
                axes[factor], sharding, blocked, step.rule.factor_sizes[factor], algebra
            )
            if not algebra.is_strict_prefix(sharding.axes, new):
                continue
            new = _truncate_across(new, tensor, factor, algebra)
            if not new:
                continue
            if step.is_elementwise and index < count:
                # No spreading between operands beyond what a result takes.
                for result in tensors[count:]:
                    held = result.get(factor)
                    if held is not None and algebra.is_strict_prefix(held.axes, new):
                        new = held.axes
            if algebra.is_strict_prefix(sharding.axes, new):
                sharding.axes = new
                updated.add(index)
    return updated


def _truncate_within(
    axes: Axes, sharding: _FactorSharding, blocked: Axes, size: int, algebra: AxisAlgebra
) -> Axes:
    """The major part of `axes` that the factor of this tensor can take."""
    result: list[AxisRef] = []
    previous = 1
    for axis in axes:
        allowed = _allowed(axis, sharding, blocked, previous, size, algebra)
        if allowed is None:
            break
        result.append(allowed)
        if allowed != axis:
            break
        previous *= algebra.size(axis)
    return tuple(result)


def _allowed(
    axis: AxisRef,
    sharding: _FactorSharding,
    blocked: Axes,
    previous: int,
    size: int,
    algebra: AxisAlgebra,
) -> AxisRef | None:
    rest = algebra.prefix_without_overlap(axis, blocked)
    if rest is None:
        return None
    held = sharding.axes
    if any(algebra.contains(own, rest) for own in held):
        return rest
    if not sharding.is_closed and not sharding.overflow:
        if sharding.is_minor_most:
            return rest
        if size % previous == 0:
            axis_size = algebra.size(rest)
            common = gcd(size // previous, axis_size)
            if common == axis_size:
                return rest
            if common != 1:
                return algebra.sub_axis(rest.name, rest.pre, common)
    if held and algebra.is_prefix(held[-1], rest):
        return held[-1]
    return None


def _truncate_across(axes: Axes, tensor: _Tensor, factor: int, algebra: AxisAlgebra) -> Axes:
    """The major part of `axes` that no other factor of the tensor uses."""
    others = [
        axis
        for other, sharding in tensor.items()
        if other != factor
        for axis in (*sharding.overflow, *sharding.axes)
    ]
    if not others:
        return axes
    result: list[AxisRef] = []
    for axis in axes:
        allowed = algebra.prefix_without_overlap(axis, others)
        if allowed is None:
            break
        result.append(allowed)
        if allowed != axis:
            break
    return tuple(result)
