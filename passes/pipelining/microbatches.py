"""Cutting a step into microbatches and an update, and putting the loop around the former.

The batch [m * b, …] is seen as [b, m, …], and microbatch i is [:, i, …]: with the batch sharded,
every device takes its microbatches from its own examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from xdsl.dialects.builtin import (
    BFloat16Type,
    Float16Type,
    FunctionType,
    ModuleOp,
    TensorType,
    UnknownLoc,
    f32,
    i1,
    i32,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from autopar.dialects import stablehlo
from autopar.dialects.autopar import BATCH_DIMS, OWN_SIZES, WHOLE_BATCH
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.reductions import COMBINERS
from autopar.dialects.stablehlo.attributes import ComparisonDirection
from autopar.dialects.tensors import shape_of, tensor_type
from autopar.passes.entry import main_function
from autopar.passes.importing.annotations import take_annotations
from autopar.passes.importing.arguments import argument_kinds, batch_dim
from autopar.passes.partition.local_builder import i64_array, resized, splat_neutral

from .batch_flow import BatchFlow, BatchPlace, inputs_of
from .cut import Cut, find_cut, is_made_in, result_path
from .scatters import split_scatters

_OPS: dict[str, type[Operation]] = {op.name: op for op in stablehlo.StableHLO.operations}


def check_split(count: int, reduction: str) -> None:
    """ValueError says which option of `split_step` is wrong."""
    if count < 1:
        raise ValueError(f"num-micro-batches={count}: expected at least 1")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction}: expected mean or sum")


def split_step(module: ModuleOp, count: int, reduction: str) -> None:
    """Rewrites @main in place (see the pass)."""
    check_split(count, reduction)
    if count == 1:
        return
    take_annotations(module)
    func = main_function(module)
    batch: dict[SSAValue, int] = {
        arg: batch_dim(func, index)
        for index, (arg, kind) in enumerate(
            zip(func.body.block.args, argument_kinds(func), strict=True)
        )
        if kind == "batch"
    }
    if not batch:
        raise DiagnosticError(
            func, 'split-step needs the batch: no argument has autopar.kind = "batch"'
        )
    flow = BatchFlow(batch)
    flow.follow(func.body.block)
    if split_scatters(func.body.block, flow):
        flow = BatchFlow(batch)
        flow.follow(func.body.block)
    cut = find_cut(func, flow, cast(Literal["mean", "sum"], reduction), count)
    _Splitter(func, flow, cut, batch, count).run()


def check_result_shapes(func: FuncOp, shapes: Sequence[tuple[int, ...] | None]) -> None:
    """DiagnosticError where a result put together is not of the whole batch's shape.

    The first 16 of 32 examples, say, are all of a microbatch of 8.
    """
    last = func.body.block.last_op
    assert last is not None
    for index, (value, shape) in enumerate(zip(last.operands, shapes, strict=True)):
        found = shape_of(value.type)
        if shape is not None and found != shape:
            raise DiagnosticError(
                value.owner if isinstance(value.owner, Operation) else func,
                f"result {index}{result_path(func, index)} has the shape {shape} of the "
                f"whole batch, but {found} of microbatches put together: it is not computed "
                "example by example; return a value an example, or compute it outside the step",
            )


class _Splitter:
    """Puts a loop around the microbatch part, and lets the update read what the loop gives."""

    def __init__(
        self,
        func: FuncOp,
        flow: BatchFlow,
        cut: Cut,
        batch: dict[SSAValue, int],
        count: int,
    ) -> None:
        self._func = func
        self._flow = flow
        self._cut = cut
        self._batch = batch
        self._count = count
        self._block = func.body.block

    def run(self) -> None:
        block, cut = self._block, self._cut
        anchor = self._loop_position()
        whole = self._grow_batch(anchor)
        index_type = TensorType(i32, [])
        reduced_types = [_accumulator_type(v.type) for v in cut.reduced]
        buffers = [resized(v.type, _shape_of_parts(v, p, self._count)) for v, p in cut.examples]
        states = [block.args[i] for i, _ in cut.carried]
        inits = [self._at(anchor, _constant(0, index_type))]
        inits += [
            self._at(anchor, splat_neutral(how.kind, type_))
            for how, type_ in zip(cut.reduced.values(), reduced_types, strict=True)
        ]
        inits += [self._at(anchor, _constant(0, t)) for t in buffers]
        inits += states
        types = [v.type for v in inits]
        body = Block(arg_types=types)
        index = body.args[0]
        mapping: dict[SSAValue, SSAValue] = dict(
            zip(states, body.args[1 + len(reduced_types) + len(buffers) :], strict=True)
        )
        for arg, dim in self._batch.items():
            mapping[arg] = self._microbatch(body, whole[arg], dim, index, arg.type)
        self._fill(body, mapping)
        loop = stablehlo.WhileOp.create(
            operands=inits,
            result_types=types,
            regions=[Region(self._condition(types)), Region(body)],
        )
        loop.location = self._func.location
        block.insert_op_before(loop, anchor)
        self._end_body(body, index, mapping)
        self._loop = loop
        self._use_results(loop, anchor)
        self._retype_main()
        self._drop_moved()
        self._take_whole_sizes()

    def _loop_position(self) -> Operation:
        """The first op that is not of the microbatch part and reads something of it."""
        for op in self._block.ops:
            if op not in self._cut.micro and any(
                is_made_in(v, self._cut.micro) and self._flow.depends(v) for v in inputs_of(op)
            ):
                return op
        last = self._block.last_op
        assert last is not None
        return last

    def _at(self, anchor: Operation, op: Operation) -> SSAValue:
        op.location = self._func.location
        Rewriter.insert_op(op, InsertPoint.before(anchor))
        return op.results[0]

    def _grow_batch(self, anchor: Operation) -> dict[SSAValue, SSAValue]:
        """The whole batch arguments, seen as [.., b, m, ..]."""
        whole: dict[SSAValue, SSAValue] = {}
        for arg, dim in self._batch.items():
            shape = list(shape_of(arg.type))
            split = [*shape[: dim + 1], self._count, *shape[dim + 1 :]]
            # The argument keeps the microbatch's type until its uses are replaced.
            whole[arg] = self._at(
                anchor,
                stablehlo.ReshapeOp.create(operands=[arg], result_types=[resized(arg.type, split)]),
            )
        return whole

    def _microbatch(
        self, body: Block, value: SSAValue, dim: int, index: SSAValue, type: Attribute
    ) -> SSAValue:
        sizes = list(shape_of(value.type))
        sizes[dim + 1] = 1
        zero = _constant(0, TensorType(i32, []))
        body.add_op(zero)
        starts = [index if d == dim + 1 else zero.results[0] for d in range(len(sizes))]
        part = stablehlo.DynamicSliceOp.create(
            operands=[value, *starts],
            result_types=[resized(value.type, sizes)],
            properties={"slice_sizes": i64_array(sizes)},
        )
        body.add_op(part)
        shaped = stablehlo.ReshapeOp.create(operands=[part.results[0]], result_types=[type])
        body.add_op(shaped)
        for op in (zero, part, shaped):
            op.location = self._func.location
        return shaped.results[0]

    def _fill(self, body: Block, mapping: dict[SSAValue, SSAValue]) -> None:
        """Copies the microbatch part into the body."""
        for op in self._block.ops:
            if op in self._cut.micro:
                body.add_op(op.clone(mapping))

    def _condition(self, types: Sequence[Attribute]) -> Block:
        block = Block(arg_types=types)
        limit = _constant(self._count, TensorType(i32, []))
        compare = stablehlo.CompareOp.create(
            operands=[block.args[0], limit.results[0]],
            result_types=[TensorType(i1, [])],
            properties={"comparison_direction": ComparisonDirection("LT")},
        )
        block.add_ops([limit, compare, stablehlo.ReturnOp(compare.results[0])])
        return block

    def _end_body(self, body: Block, index: SSAValue, mapping: dict[SSAValue, SSAValue]) -> None:
        cut = self._cut
        args = iter(body.args[1:])
        one = _constant(1, TensorType(i32, []))
        following = stablehlo.AddOp.create(
            operands=[index, one.results[0]], result_types=[index.type]
        )
        body.add_ops([one, following])
        values: list[SSAValue] = [following.results[0]]
        for value, how in cut.reduced.items():
            acc = next(args)
            new = mapping[value]
            if new.type != acc.type:
                convert = stablehlo.ConvertOp.create(operands=[new], result_types=[acc.type])
                body.add_op(convert)
                new = convert.results[0]
            total = _OPS[COMBINERS[how.kind]].create(operands=[acc, new], result_types=[acc.type])
            body.add_op(total)
            values.append(total.results[0])
        for value, place in cut.examples:
            values.append(self._store(body, next(args), mapping[value], place, index))
        values += [mapping[value] for _, value in cut.carried]
        body.add_op(stablehlo.ReturnOp(*values))
        for op in body.ops:
            if isinstance(op.location, UnknownLoc):
                op.location = self._func.location

    def _store(
        self, body: Block, buffer: SSAValue, value: SSAValue, place: BatchPlace, index: SSAValue
    ) -> SSAValue:
        shape = _shape_of_parts(value, place, 1)
        zero = _constant(0, TensorType(i32, []))
        part = stablehlo.ReshapeOp.create(
            operands=[value], result_types=[resized(value.type, shape)]
        )
        starts = [index if d == place.dim + 2 else zero.results[0] for d in range(len(shape))]
        store = stablehlo.DynamicUpdateSliceOp.create(
            operands=[buffer, part.results[0], *starts], result_types=[buffer.type]
        )
        body.add_ops([zero, part, store])
        return store.results[0]

    def _use_results(self, loop: Operation, anchor: Operation) -> None:
        """Lets the update part read what the loop gives."""
        cut = self._cut
        results = list(loop.results[1:])
        split = len(cut.reduced), len(cut.reduced) + len(cut.examples)
        for (_, value), state in zip(cut.carried, results[split[1] :], strict=True):
            self._replace_outside(value, state)
        for (value, how), total in zip(cut.reduced.items(), results[: split[0]], strict=True):
            if how.scale != 1:
                total = self._scaled(anchor, total, how.scale)
            if total.type != value.type:
                total = self._at(
                    anchor,
                    stablehlo.ConvertOp.create(operands=[total], result_types=[value.type]),
                )
            self._replace_outside(value, total)
        for (value, place), buffer in zip(cut.examples, results[split[0] : split[1]], strict=True):
            shape = list(shape_of(value.type))
            shape[place.dim] *= self._count
            merged = stablehlo.ReshapeOp.create(
                operands=[buffer], result_types=[resized(value.type, shape)]
            )
            self._replace_outside(value, self._at(anchor, merged))
        for scaling in cut.scalings:
            place = self._block.find_ancestor_op_in_block(scaling.op)
            assert place is not None
            value = scaling.op.operands[scaling.index]
            scaling.op.operands[scaling.index] = self._scaled(place, value, scaling.factor)

    def _scaled(self, anchor: Operation, value: SSAValue, factor: float) -> SSAValue:
        scale = self._at(anchor, _constant(factor, value.type))
        return self._at(
            anchor, stablehlo.MulOp.create(operands=[value, scale], result_types=[value.type])
        )

    def _take_whole_sizes(self) -> None:
        """Gives constants that come of the batch's size those of the whole batch; the loop's own
        stay as they are."""
        self._func.attributes.pop(OWN_SIZES, None)
        for op in self._func.walk():
            op.attributes.pop(BATCH_DIMS, None)
            whole = op.attributes.pop(WHOLE_BATCH, None)
            if whole is not None and not self._is_in(op, self._loop):
                op.properties["value"] = whole

    @staticmethod
    def _is_in(op: Operation, loop: Operation) -> bool:
        parent = op.parent_op()
        while parent is not None and parent is not loop:
            parent = parent.parent_op()
        return parent is loop

    def _replace_outside(self, value: SSAValue, new: SSAValue) -> None:
        for use in list(value.uses):
            owner = self._block.find_ancestor_op_in_block(use.operation)
            if owner not in self._cut.micro:
                use.operation.operands[use.index] = new

    def _retype_main(self) -> None:
        """Batch arguments and batch results of @main are those of all microbatches."""
        for arg, dim in self._batch.items():
            shape = list(shape_of(arg.type))
            shape[dim] *= self._count
            arg._type = resized(arg.type, shape)  # pyright: ignore[reportPrivateUsage]
        last = self._block.last_op
        assert last is not None
        self._func.properties["function_type"] = FunctionType.from_lists(
            [a.type for a in self._block.args], [v.type for v in last.operands]
        )

    def _drop_moved(self) -> None:
        """Removes the originals that nobody reads any more."""
        for op in reversed(list(self._block.ops)):
            if op in self._cut.micro and all(r.first_use is None for r in op.results):
                Rewriter.erase_op(op)


def _accumulator_type(type: Attribute) -> Attribute:
    """Narrow floats are accumulated in f32."""
    tensor = tensor_type(type)
    if isinstance(tensor.element_type, BFloat16Type | Float16Type):
        return TensorType(f32, tensor.get_shape(), tensor.encoding)
    return tensor


def _shape_of_parts(value: SSAValue, place: BatchPlace, count: int) -> list[int]:
    """The value's shape with the batch as [outer, size, count, inner]."""
    shape = list(shape_of(value.type))
    dim = place.dim
    return [*shape[:dim], place.outer, place.size, count, place.inner, *shape[dim + 1 :]]


def _constant(value: float, type: Attribute) -> Operation:
    return stablehlo.splat_constant(value, type)
