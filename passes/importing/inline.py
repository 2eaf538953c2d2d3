"""inline: calls become the bodies that they call.

JAX emits a private function for each jit'd helper; sharding rules, propagation and partition want
one body. Linear in the size of the result: the last call of a private function takes its body
away, the others copy it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    ModuleOp,
    NameLoc,
    NoneAttr,
    SymbolRefAttr,
    UnknownLoc,
)
from xdsl.dialects.func import CallOp, FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, OpResult, Region, SSAValue, SSAValues, Use
from xdsl.passes import ModulePass

from autopar.dialects import autopar, sdy
from autopar.dialects.autopar import ConstraintOp, ShardingAttr
from autopar.dialects.locations import call_site_loc, name_loc
from autopar.dialects.sdy import ShardingConstraintOp, TensorShardingAttr
from autopar.passes.collector import collector_off
from autopar.passes.splice import insert_detached, move_body
from autopar.passes.walk import inner_ops

from .equal_ops import merge_equal_to


@dataclass(frozen=True)
class InlinePass(ModulePass):
    """Replaces every func.call by the body of the function that it calls.

    Needs: any module. Guarantees: calls are left only of functions that have no body, several
    blocks or recursion; private functions that nothing refers to are gone; every op keeps the
    order and its location, with the call's in front. Ops that come in are merged with equal ones.
    """

    name = "inline"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        inline(op)


def inline(module: ModuleOp) -> None:
    """Inlines all calls in `module`, and merges what comes in with equal ops."""
    inlined: list[Operation] = []
    with collector_off():
        _inline_module(module, inlined)
        merge_equal_to(op for op in inlined if op.get_toplevel_object() is module)


def _inline_module(module: ModuleOp, inlined: list[Operation]) -> None:
    """Inlines the calls; adds the ops that took their places."""
    functions: dict[str, FuncOp] = {}
    for op in module.body.block.ops:
        if isinstance(op, FuncOp):
            functions[op.sym_name.data] = op
        elif isinstance(op, ModuleOp):
            _inline_module(op, inlined)
    calls: dict[str, list[CallOp]] = {}
    others: set[str] = set()
    seen: dict[int, Attribute] = {}
    for name, function in functions.items():
        calls[name] = []
        for op in inner_ops(function):
            if type(op) is CallOp:
                calls[name].append(op)
            elif op.properties or op.attributes:
                _note_symbols(op, others, seen)
    if not any(calls.values()):
        return
    order = _callees_first(functions, calls)
    fixed = {name for name, f in functions.items() if not _can_inline(f)}
    fixed |= _recursive(calls, order)
    remaining: dict[str, int] = {}
    for name in order:
        for call in calls[name]:
            callee = call.callee.string_value()
            remaining[callee] = remaining.get(callee, 0) + 1
    for name in order:
        for call in calls[name]:
            callee = call.callee.string_value()
            remaining[callee] -= 1
            if callee in functions and callee not in fixed:
                function = functions[callee]
                take = remaining[callee] == 0 and callee not in others and _is_private(function)
                inlined += _inline_call(call, function, take)
    _drop_unused(functions, others | fixed)


def _is_private(function: FuncOp) -> bool:
    return function.sym_visibility is not None and function.sym_visibility.data == "private"


def _can_inline(function: FuncOp) -> bool:
    blocks = function.body.blocks
    return len(blocks) == 1 and isinstance(blocks[0].last_op, ReturnOp)


def _callees_first(functions: dict[str, FuncOp], calls: dict[str, list[CallOp]]) -> list[str]:
    """The functions reached from the public ones, each after those that it calls."""
    order: list[str] = []
    state: dict[str, bool] = {}
    roots = [name for name, f in functions.items() if not _is_private(f)] or list(functions)
    stack = [(name, False) for name in reversed(roots)]
    while stack:
        name, done = stack.pop()
        if done:
            order.append(name)
        elif name not in state and name in functions:
            state[name] = True
            stack.append((name, True))
            callees = dict.fromkeys(call.callee.string_value() for call in calls[name])
            stack.extend((callee, False) for callee in reversed(callees))
    return order


def _recursive(calls: dict[str, list[CallOp]], order: list[str]) -> set[str]:
    """Functions that may call themselves: a call of one that does not stand before its caller."""
    position = {name: index for index, name in enumerate(order)}
    return {
        callee
        for name in order
        for callee in (call.callee.string_value() for call in calls[name])
        if position.get(callee, -1) >= position[name]
    }


# ---- Symbols -------------------------------------------------------------------------------------


def _note_symbols(op: Operation, symbols: set[str], seen: dict[int, Attribute]) -> None:
    """Adds the symbols that an op's attributes name. `seen` holds the attribute objects that were
    looked through, by identity: most are shared by many ops."""
    for attrs in (op.properties, op.attributes):
        for attr in attrs.values():
            if id(attr) not in seen:
                seen[id(attr)] = attr
                symbols.update(_symbols_in(attr))


def _symbols_in(attr: Attribute) -> Iterator[str]:
    if isinstance(attr, SymbolRefAttr):
        yield attr.root_reference.data
    elif isinstance(attr, ArrayAttr):
        for element in cast(ArrayAttr[Attribute], attr).data:
            yield from _symbols_in(element)
    elif isinstance(attr, DictionaryAttr):
        for element in attr.data.values():
            yield from _symbols_in(element)


def _drop_unused(functions: dict[str, FuncOp], suspects: set[str]) -> None:
    """Erases the private functions that no other function names. After inlining only `suspects` can
    be named: functions whose calls stay, and what other ops than calls named before."""
    public = [name for name, f in functions.items() if not _is_private(f)]
    if not public or len(public) == len(functions):
        return
    keep = set(public)
    if not suspects.isdisjoint(functions.keys() - keep):
        keep = _reachable(functions, public)
    for name, function in functions.items():
        if name not in keep:
            function.detach()
            function.erase(safe_erase=False)


def _reachable(functions: dict[str, FuncOp], roots: list[str]) -> set[str]:
    """The functions that those in `roots` name, directly or not, and these."""
    stack = list(roots)
    keep: set[str] = set()
    while stack:
        name = stack.pop()
        if name in keep or name not in functions:
            continue
        keep.add(name)
        named: set[str] = set()
        seen: dict[int, Attribute] = {}
        for op in inner_ops(functions[name]):
            if op.properties or op.attributes:
                _note_symbols(op, named, seen)
        stack.extend(named)
    return keep


# ---- One call ------------------------------------------------------------------------------------


def _inline_call(call: CallOp, function: FuncOp, take: bool) -> Sequence[Operation]:
    """Puts the body of `function` in the place of `call`; `take`: its ops, else copies of them.
    Gives these."""
    body = function.body.block
    locations = _Locations(call.location)
    arguments = [
        _constrained(call, value, entry)
        for value, entry in zip(
            call.operands, _entries(function.arg_attrs, call.operands), strict=True
        )
    ]
    if take:
        ops = [op for op in body.ops if not isinstance(op, ReturnOp)]
        for op in ops:
            locations.nest(op)
        returned = move_body(body, arguments, call)
    else:
        values: dict[SSAValue, SSAValue] = dict(zip(body.args, arguments, strict=True))
        ops = [_copy(op, values, locations) for op in body.ops if not isinstance(op, ReturnOp)]
        assert body.last_op is not None
        returned = [values.get(value, value) for value in body.last_op.operands]
        insert_detached(ops, call)
    results = _result_entries(call, function)
    for result, value, entry in zip(call.results, returned, results, strict=True):
        result.replace_all_uses_with(_constrained(call, value, entry))
    call.detach()
    call.erase()
    return ops


def _entries(
    attrs: ArrayAttr[DictionaryAttr] | None, values: Iterable[SSAValue]
) -> list[DictionaryAttr | None]:
    return list(attrs.data) if attrs is not None else [None for _ in values]


def _result_entries(call: CallOp, function: FuncOp) -> list[DictionaryAttr | None]:
    """The attributes of the callee's results, and the shardings that stand on the call."""
    for name in (autopar.SHARDING, sdy.SHARDING):
        attr = call.attributes.get(name)
        if isinstance(attr, sdy.TensorShardingPerValueAttr):
            found: list[Attribute] = [TensorShardingAttr(value) for value in attr.data]
        elif isinstance(attr, ArrayAttr):
            found = list(cast(ArrayAttr[Attribute], attr).data)
        else:
            continue
        return [DictionaryAttr({name: value}) for value in found]
    return _entries(function.res_attrs, call.results)


def _constrained(call: CallOp, value: SSAValue, entry: DictionaryAttr | None) -> SSAValue:
    """`value`, or a constraint on it where the function's boundary demands a sharding."""
    if entry is None or not entry.data:
        return value
    attr = entry.data.get(autopar.SHARDING)
    if isinstance(attr, ShardingAttr):
        new = ConstraintOp(value, attr)
    elif isinstance(attr := entry.data.get(sdy.SHARDING), TensorShardingAttr):
        new = ShardingConstraintOp(value, sharding=attr)
    else:
        return value
    new.location = call.location
    assert call.parent is not None
    call.parent.insert_op_before(new, call)
    return new.results[0]


class _Locations:
    """Puts the location of a call in front of those of the ops that it called."""

    def __init__(self, call: Attribute) -> None:
        self._call = call
        self._found: dict[int, Attribute] = {}
        self._keep: list[Attribute] = []

    def of(self, location: Attribute) -> Attribute:
        found = self._found.get(id(location))
        if found is None:
            found = self._found[id(location)] = nested_location(location, self._call)
            self._keep.append(location)
        return found

    def nest(self, op: Operation) -> None:
        """Changes the locations of an op and of all ops in it."""
        op.location = self.of(op.location)  # pyright: ignore[reportAttributeAccessIssue]
        for region in op.regions:
            for block in region.blocks:
                for inner in block.ops:
                    self.nest(inner)


def nested_location(callee: Attribute, caller: Attribute) -> Attribute:
    """The location of an op of a called function, seen from the caller.

    JAX's names are relative inside a helper (`select_n`); the call's name
    (`jit(step)/jit(_where)`) goes in front of them. The file position stays the op's own; in
    JAX's own helpers (`jnp.sort`) ops have none, and take the call's.
    Else: callsite(callee at caller).
    """
    if isinstance(caller, UnknownLoc):
        return callee
    if isinstance(callee, UnknownLoc):
        return caller
    if isinstance(callee, NameLoc) and isinstance(caller, NameLoc):
        own = callee.location
        place = caller.location if isinstance(own, NoneAttr | UnknownLoc) else own
        return name_loc(f"{caller.desc.data}/{callee.desc.data}", place)
    return call_site_loc(callee, caller)


_new = object.__new__


def _copy(op: Operation, values: dict[SSAValue, SSAValue], locations: _Locations) -> Operation:
    """A detached copy of `op`, as Operation.clone makes it but several times faster."""
    new = _new(op.__class__)
    operands: list[SSAValue] = []
    uses: list[Use] = []
    for index, old in enumerate(op._operands):  # pyright: ignore[reportPrivateUsage]
        value = values.get(old, old)
        use = Use(new, index)
        value.add_use(use)
        operands.append(value)
        uses.append(use)
    new._operands = SSAValues(operands)  # pyright: ignore[reportPrivateUsage]
    new._operand_uses = tuple(uses)  # pyright: ignore[reportPrivateUsage]
    new._successors = ()  # pyright: ignore[reportPrivateUsage]
    new._successor_uses = ()  # pyright: ignore[reportPrivateUsage]
    results: list[OpResult] = []
    for index, old in enumerate(op.results):
        result = OpResult(old.type, new, index)
        result._name = old._name  # pyright: ignore[reportPrivateUsage]
        values[old] = result
        results.append(result)
    new.results = SSAValues(results)
    new.properties = op.properties.copy()
    new.attributes = op.attributes.copy()
    new.location = locations.of(op.location)  # pyright: ignore[reportAttributeAccessIssue]
    new.parent = new._prev_op = new._next_op = None  # pyright: ignore[reportPrivateUsage]
    new.regions = ()
    for region in op.regions:
        new.add_region(_copy_region(region, values, locations))
    return new


def _copy_region(region: Region, values: dict[SSAValue, SSAValue], locations: _Locations) -> Region:
    blocks: list[Block] = []
    for block in region.blocks:
        copy = Block(arg_types=[argument.type for argument in block.args])
        for old, new in zip(block.args, copy.args, strict=True):
            new._name = old._name  # pyright: ignore[reportPrivateUsage]
            new.location = old.location
            values[old] = new
        blocks.append(copy)
    for block, copy in zip(region.blocks, blocks, strict=True):
        copy.add_ops([_copy(op, values, locations) for op in block.ops])
    return Region(blocks)
