"""Rules of ops that read or write at computed positions.

Dimensions taken whole and batch dimensions pass through. Indexed dimensions follow Shardy:
a gather from a sharded dimension gives a partial sum (each device reads what it holds, zero
elsewhere), a scatter into one keeps it sharded (each device writes what it holds), scattered
updates split over the batch give a partial result. The partitioner has a masked routine for these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from xdsl.ir import Operation

from .access import Shape, attribute, body_reducer, operand_shapes, result_shapes
from .core import FactorKind, RuleBuilder, ShardingRule
from .registry import sharding_rule

if TYPE_CHECKING:
    from ..stablehlo.attributes import GatherDimensionNumbers, ScatterDimensionNumbers

AddFactor = Callable[[int | None, int | None, int | None, int, FactorKind, bool], None]


def _gather_scatter_factors(
    add: AddFactor,
    *,
    is_scatter: bool,
    input_shape: Shape,
    indices_shape: Shape,
    slices_shape: Shape,
    index_vector_dim: int,
    offset_dims: Sequence[int],
    collapsed_dims: Sequence[int],
    input_batching: Sequence[int],
    indices_batching: Sequence[int],
) -> None:
    """Calls add(input dim, indices dim, slices dim, size, kind, blocked) for each factor."""
    pass_, reduction = FactorKind.PASS_THROUGH, FactorKind.REDUCTION
    replicate = FactorKind.NEED_REPLICATION
    input_dim = batch_position = 0
    for dim, size in enumerate(slices_shape):
        if dim in offset_dims:
            while input_dim in collapsed_dims or input_dim in input_batching:
                input_dim += 1
            whole = input_shape[input_dim]
            if whole == size:
                add(input_dim, None, dim, whole, pass_, False)
            elif is_scatter or size == 1:
                add(input_dim, None, None, whole, pass_ if is_scatter else reduction, False)
                add(None, None, dim, size, replicate, False)
            else:
                add(input_dim, None, dim, whole, replicate, True)
            input_dim += 1
            continue
        indices_dim = batch_position + (batch_position >= index_vector_dim)
        explicit = indices_dim in indices_batching
        batch = input_batching[list(indices_batching).index(indices_dim)] if explicit else None
        add(
            batch,
            indices_dim,
            dim,
            size,
            reduction if is_scatter and not explicit else pass_,
            False,
        )
        batch_position += 1
    for dim in collapsed_dims:
        add(dim, None, None, input_shape[dim], pass_ if is_scatter else reduction, False)
    if index_vector_dim < len(indices_shape):
        add(None, index_vector_dim, None, indices_shape[index_vector_dim], replicate, False)


@sharding_rule("stablehlo.gather")
def gather(op: Operation) -> ShardingRule:
    numbers = cast("GatherDimensionNumbers", attribute(op, "dimension_numbers"))
    (source, indices), (slices,) = operand_shapes(op), result_shapes(op)
    builder = RuleBuilder([source, indices], [slices])

    def add(
        source_dim: int | None,
        indices_dim: int | None,
        dim: int | None,
        size: int,
        kind: FactorKind,
        blocked: bool,
    ) -> None:
        reducer = "sum" if kind is FactorKind.REDUCTION else None
        builder.factor(
            [source_dim, indices_dim], [dim], size, kind, reducer=reducer, blocked=blocked
        )

    _gather_scatter_factors(
        add,
        is_scatter=False,
        input_shape=source,
        indices_shape=indices,
        slices_shape=slices,
        index_vector_dim=numbers.index_vector_dim,
        offset_dims=numbers.offset_dims,
        collapsed_dims=numbers.collapsed_slice_dims,
        input_batching=numbers.operand_batching_dims,
        indices_batching=numbers.start_indices_batching_dims,
    )
    return builder.build(linear=((0,),), moves_data=True)


@sharding_rule("stablehlo.scatter")
def scatter(op: Operation) -> ShardingRule:
    """Updates split over the batch need a body that is a reducer, else replication."""
    numbers = cast("ScatterDimensionNumbers", attribute(op, "scatter_dimension_numbers"))
    shapes, results = operand_shapes(op), result_shapes(op)
    count = len(results)
    reducer = body_reducer(op.regions[0])
    builder = RuleBuilder(shapes, results)

    def add(
        input_dim: int | None,
        indices_dim: int | None,
        dim: int | None,
        size: int,
        kind: FactorKind,
        blocked: bool,
    ) -> None:
        if kind is FactorKind.REDUCTION and reducer is None:
            kind = FactorKind.NEED_REPLICATION
        builder.factor(
            [*([input_dim] * count), indices_dim, *([dim] * count)],
            [input_dim] * count,
            size,
            kind,
            reducer=reducer if kind is FactorKind.REDUCTION else None,
            blocked=blocked,
        )

    _gather_scatter_factors(
        add,
        is_scatter=True,
        input_shape=shapes[0],
        indices_shape=shapes[count],
        slices_shape=shapes[count + 1],
        index_vector_dim=numbers.index_vector_dim,
        offset_dims=numbers.update_window_dims,
        collapsed_dims=numbers.inserted_window_dims,
        input_batching=numbers.input_batching_dims,
        indices_batching=numbers.scatter_indices_batching_dims,
    )
    joint = (*range(count), *range(count + 1, 2 * count + 1))
    return builder.build(
        linear=(joint,) if reducer == "sum" else (), accumulated=tuple(range(count))
    )


@sharding_rule("stablehlo.dynamic_slice", op_class="forward")
def dynamic_slice(op: Operation) -> ShardingRule:
    shapes, (target,) = operand_shapes(op), result_shapes(op)
    scalars: list[int | None] = [None] * (len(shapes) - 1)
    builder = RuleBuilder(shapes, [target])
    for dim, (old, new) in enumerate(zip(shapes[0], target, strict=True)):
        whole = old == new
        kind = FactorKind.PASS_THROUGH if whole else FactorKind.NEED_REPLICATION
        builder.factor([dim, *scalars], [dim], old, kind, blocked=not whole)
    return builder.build(linear=((0,),), moves_data=True)


@sharding_rule("stablehlo.dynamic_update_slice", op_class="forward")
def dynamic_update_slice(op: Operation) -> ShardingRule:
    """A sliced dimension stays sharded in operand and result: each device writes its part."""
    shapes, (target,) = operand_shapes(op), result_shapes(op)
    scalars: list[int | None] = [None] * (len(shapes) - 2)
    builder = RuleBuilder(shapes, [target])
    for dim, (old, new) in enumerate(zip(shapes[0], shapes[1], strict=True)):
        if old == new:
            builder.factor([dim, dim, *scalars], [dim], old)
        else:
            builder.factor([dim, None, *scalars], [dim], old)
            builder.factor([None, dim, *scalars], [None], new, FactorKind.NEED_REPLICATION)
    return builder.build(linear=((0, 1),), moves_data=True)
