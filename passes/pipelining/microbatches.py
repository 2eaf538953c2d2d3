"""Cutting a step into microbatches and an update, and putting the loop around the former.

The batch [m * b, …] is seen as [b, m, …], and microbatch i is [:, i, …]: with the batch sharded,
every device takes its microbatches from its own examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xdsl.dialects.builtin import (
    BFloat16Type,
    Float16Type,
    FunctionType,
    IntegerType,
    ModuleOp,
    TensorType,
    UnknownLoc,
    f32,
    i1,
    i32,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from autopar.dialects import stablehlo
from autopar.dialects.autopar import aliases
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.rules.registry import get_rule
from autopar.dialects.stablehlo.attributes import ComparisonDirection
from autopar.passes.importing.methods import (
    argument_kinds,
    batch_dim,
    main_function,
)
from autopar.passes.importing.phases import phase_of
from autopar.passes.partition.local_builder import i64_array, resized
from autopar.passes.partition.tensors import (
    element_type,
    is_tensor,
    num_bytes,
    shape_of,
    tensor_type,
)

from .batch_flow import BatchFlow, inputs_of


@dataclass
class Cut:
    """Where a step is cut."""

    micro: set[Operation]
    """Top-level ops that run once a microbatch."""
    reduced: list[SSAValue] = field(default_factory=list[SSAValue])
    """Values that cross to the update part, to be averaged."""
    examples: list[tuple[SSAValue, int]] = field(default_factory=list[tuple[SSAValue, int]])
    """Results with a batch dimension."""
    carried: list[tuple[int, SSAValue]] = field(default_factory=list[tuple[int, SSAValue]])
    """(argument index, value): state that the forward part writes."""


def split_step(module: ModuleOp, count: int, reduction: str) -> None:
    """Rewrites @main in place (see the pass)."""
    if count < 1:
        raise DiagnosticError(module, f"num-micro-batches={count}: expected at least 1")
    if reduction not in ("mean", "sum"):
        raise DiagnosticError(module, f"reduction={reduction}: expected mean or sum")
    if count == 1:
        return
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
    cut = find_cut(func, flow)
    _Splitter(func, flow, cut, batch, count, reduction).run()


# ---- the cut -------------------------------------------------------------------------------------


def find_cut(func: FuncOp, flow: BatchFlow) -> Cut:
    """Cuts the step by data flow."""
    block = func.body.block
    terminator = block.last_op
    assert terminator is not None
    carried = _forward_state(func, flow)
    seeds = [op for op in block.ops if op is not terminator and _touches_examples(op, flow)]
    seeds += [v.owner for _, v in carried if isinstance(v.owner, Operation)]
    micro = _needed_by(seeds, block)
    _take_gradient_ops(micro, block, flow)
    _take_linear_followers(micro, block, flow)
    cut = Cut(micro, carried=carried)
    written = {value for _, value in carried}
    crossing: dict[SSAValue, None] = {}
    for op in block.ops:
        if op in micro:
            continue
        if op is not terminator:
            for value in inputs_of(op):
                if _is_made_in(value, micro) and flow.depends(value):
                    crossing[value] = None
            continue
        for index, value in enumerate(op.operands):
            if not _is_made_in(value, micro) or not flow.depends(value):
                continue
            if value in written:
                pass
            elif flow.is_per_example(value):
                cut.examples.append((value, min(flow.dims[value])))
            else:
                _check_result(func, index, value)
                crossing[value] = None
    cut.reduced = list(crossing)
    return cut


def _touches_examples(op: Operation, flow: BatchFlow) -> bool:
    """Whether the op computes on single examples, in a region of it included."""
    if any(flow.is_per_example(v) for v in (*op.operands, *op.results)):
        return True
    return any(
        flow.is_per_example(v)
        for region in op.regions
        for inner in region.walk()
        for v in inner.operands
    )


def _forward_state(func: FuncOp, flow: BatchFlow) -> list[tuple[int, SSAValue]]:
    """State that the forward part writes (running statistics of a normalisation): a result that
    depends on the batch, made in the forward phase, whose argument shares its buffer or is the only
    one that it was computed from element by element."""
    terminator = func.body.block.last_op
    assert terminator is not None
    argument_of = {result: argument for argument, result in aliases(func)}
    found: list[tuple[int, SSAValue]] = []
    for result, value in enumerate(terminator.operands):
        if (
            not isinstance(value.owner, Operation)
            or not flow.depends(value)
            or flow.is_per_example(value)
            or phase_of(value.owner) != "forward"
        ):
            continue
        argument = argument_of.get(result)
        if argument is None:
            argument = _updated_argument(value)
        if argument is not None:
            found.append((argument, value))
    return found


def _updated_argument(value: SSAValue) -> int | None:
    """The one argument of @main of the value's type that it is computed from elementwise."""
    arguments: set[int] = set()
    seen: set[SSAValue] = set()
    stack: list[SSAValue] = [value]
    while stack:
        current = stack.pop()
        if current in seen or current.type != value.type:
            continue
        seen.add(current)
        if isinstance(current, BlockArgument):
            arguments.add(current.index)
        elif isinstance(current.owner, Operation):
            operands = current.owner.operands
            stack += operands if all(v.type == value.type for v in operands) else ()
    return arguments.pop() if len(arguments) == 1 else None


def _take_gradient_ops(micro: set[Operation], block: Block, flow: BatchFlow) -> None:
    """Takes ops on reduced values that belong to single microbatches all the same: those of the
    forward and backward phase, by their names, and those that read what the microbatch part itself
    goes on computing with (a normalisation's statistics), by data flow."""
    examples = frozenset(micro)
    for op in block.ops:
        varying = [v for v in op.operands if flow.depends(v)]
        if op in micro or not op.results or not varying:
            continue
        if all(_is_made_in(v, micro) for v in varying) and (
            phase_of(op) != "update"
            or any(use.operation in examples for v in varying for use in v.uses)
        ):
            micro |= _needed_by([op], block)


def _needed_by(seeds: Sequence[Operation], block: Block) -> set[Operation]:
    """The seeds and every op of the block that they need."""
    needed: set[Operation] = set()
    stack = list(seeds)
    while stack:
        op = stack.pop()
        if op in needed:
            continue
        needed.add(op)
        for inner in op.walk():
            for value in inner.operands:
                owner = value.owner
                if isinstance(owner, Operation) and owner.parent is block and owner not in needed:
                    stack.append(owner)
    return needed


def _take_linear_followers(micro: set[Operation], block: Block, flow: BatchFlow) -> None:
    """Moves ops that only combine reduced values linearly into the microbatch part, where that
    leaves fewer bytes to accumulate (the sum of a tied weight's gradients)."""
    for op in block.ops:
        if op in micro or len(op.results) != 1 or not flow.depends(op.results[0]):
            continue
        varying = [i for i, v in enumerate(op.operands) if flow.depends(v)]
        if not all(_is_made_in(op.operands[i], micro) for i in varying):
            continue
        if any(not op.operands[i].has_one_use() for i in varying):
            continue
        if any(
            isinstance(v.owner, Operation) and v.owner not in micro and not flow.depends(v)
            for v in op.operands
        ):
            continue
        rule = get_rule(op)
        if rule is None or not any(set(varying) == set(group) for group in rule.linear):
            continue
        if num_bytes(op.results[0].type) <= sum(num_bytes(op.operands[i].type) for i in varying):
            micro.add(op)


def _check_result(func: FuncOp, index: int, value: SSAValue) -> None:
    type = value.type
    if is_tensor(type) and not isinstance(element_type(type), IntegerType):
        return
    raise DiagnosticError(
        value.owner if isinstance(value.owner, Operation) else func,
        f"result {index} ({type}) depends on the batch but has no batch dimension and is no float: "
        "it cannot be put together from microbatches; return a float (it is averaged), a value a "
        "example, or compute it outside the step",
    )


def _is_made_in(value: SSAValue, ops: set[Operation]) -> bool:
    return isinstance(value.owner, Operation) and value.owner in ops


# ---- the rewrite ---------------------------------------------------------------------------------


class _Splitter:
    def __init__(
        self,
        func: FuncOp,
        flow: BatchFlow,
        cut: Cut,
        batch: dict[SSAValue, int],
        count: int,
        reduction: str,
    ) -> None:
        self._func = func
        self._flow = flow
        self._cut = cut
        self._batch = batch
        self._count = count
        self._reduction = reduction
        self._block = func.body.block

    def run(self) -> None:
        block, cut = self._block, self._cut
        anchor = self._loop_position()
        whole = self._grow_batch(anchor)
        index_type = TensorType(i32, [])
        reduced_types = [_accumulator_type(v.type) for v in cut.reduced]
        buffers = [_buffer_type(v.type, dim, self._count) for v, dim in cut.examples]
        states = [block.args[i] for i, _ in cut.carried]
        inits = [self._at(anchor, _constant(0, index_type))]
        inits += [self._at(anchor, _constant(0, t)) for t in (*reduced_types, *buffers)]
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
        self._use_results(loop, anchor)
        self._retype_main()
        self._drop_moved()

    def _loop_position(self) -> Operation:
        """The first op that is not of the microbatch part and reads something of it."""
        for op in self._block.ops:
            if op not in self._cut.micro and any(
                _is_made_in(v, self._cut.micro) and self._flow.depends(v) for v in inputs_of(op)
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
        for value in cut.reduced:
            acc = next(args)
            new = mapping[value]
            if new.type != acc.type:
                convert = stablehlo.ConvertOp.create(operands=[new], result_types=[acc.type])
                body.add_op(convert)
                new = convert.results[0]
            total = stablehlo.AddOp.create(operands=[acc, new], result_types=[acc.type])
            body.add_op(total)
            values.append(total.results[0])
        for value, dim in cut.examples:
            values.append(self._store(body, next(args), mapping[value], dim, index))
        values += [mapping[value] for _, value in cut.carried]
        body.add_op(stablehlo.ReturnOp(*values))
        for op in body.ops:
            if isinstance(op.location, UnknownLoc):
                op.location = self._func.location

    def _store(
        self, body: Block, buffer: SSAValue, value: SSAValue, dim: int, index: SSAValue
    ) -> SSAValue:
        shape = list(shape_of(value.type))
        shape.insert(dim + 1, 1)
        zero = _constant(0, TensorType(i32, []))
        part = stablehlo.ReshapeOp.create(
            operands=[value], result_types=[resized(value.type, shape)]
        )
        starts = [index if d == dim + 1 else zero.results[0] for d in range(len(shape))]
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
        terminator = self._block.last_op
        assert terminator is not None
        for (_, value), state in zip(cut.carried, results[split[1] :], strict=True):
            for index, operand in enumerate(terminator.operands):
                if operand is value:
                    terminator.operands[index] = state
        for value, total in zip(cut.reduced, results[: split[0]], strict=True):
            if self._reduction == "mean":
                scale = self._at(anchor, _constant(1.0 / self._count, total.type))
                total = self._at(
                    anchor,
                    stablehlo.MulOp.create(operands=[total, scale], result_types=[total.type]),
                )
            if total.type != value.type:
                total = self._at(
                    anchor,
                    stablehlo.ConvertOp.create(operands=[total], result_types=[value.type]),
                )
            self._replace_outside(value, total)
        for (value, dim), buffer in zip(cut.examples, results[split[0] : split[1]], strict=True):
            shape = list(shape_of(value.type))
            shape[dim] *= self._count
            merged = stablehlo.ReshapeOp.create(
                operands=[buffer], result_types=[resized(value.type, shape)]
            )
            self._replace_outside(value, self._at(anchor, merged))

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


def _buffer_type(type: Attribute, dim: int, count: int) -> Attribute:
    shape = list(shape_of(type))
    shape.insert(dim + 1, count)
    return resized(type, shape)


def _constant(value: float, type: Attribute) -> Operation:
    return stablehlo.splat_constant(value, type)
