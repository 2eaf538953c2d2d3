"""Shardy in process (through jaxlib) as the judge of our rules and propagation.

Everything here works on MLIR text: `shardy_rules` and `shardy_shardings` say what Shardy finds,
`our_module` reads the same text with our dialects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

jaxlib_ir = pytest.importorskip("jaxlib.mlir.ir")

from jaxlib.mlir import passmanager
from jaxlib.mlir.dialects import stablehlo as jaxlib_stablehlo

from autopar.lowering.importer import import_module
from autopar.lowering.mlir_context import make_mlir_context
from autopar.passes.importing.import_sdy import import_sdy
from autopar.passes.sharding.propagation.classes import constant_followers

jaxlib_stablehlo.register_stablehlo_passes()
CONTEXT: Any = make_mlir_context()

PROPAGATION = ",".join(
    [
        "symbol-dce",
        "sdy-lift-inlined-meshes",
        "sdy-remove-size-one-axes",
        "sdy-constant-or-scalar-splitter",
        "sdy-manual-axes-cleanup",
        "sdy-add-data-flow-edges",
        "sdy-apply-sharding-constraints",
        "sdy-sharding-group-import",
        "sdy-user-priority-propagate",
        "func.func(sdy-constant-or-scalar-merger)",
        "func.func(sdy-sink-data-flow-edges)",
        "sdy-remove-sharding-groups",
        "sdy-remove-sub-axes-in-input-output-shardings",
        "sdy-close-shardings",
    ]
)
"""Shardy's propagation pipeline without what changes the program afterwards (explicit reshards) or
takes shardings back at the boundary (which we keep and pad)."""


def parse(text: str) -> Any:
    with CONTEXT:
        return jaxlib_ir.Module.parse(text)


def run(module: Any, pipeline: str) -> Any:
    with CONTEXT:
        passmanager.PassManager.parse(f"builtin.module({pipeline})").run(module.operation)
    return module


def legalise_chlo(text: str) -> str:
    """The program without chlo ops, which Shardy has no rules for."""
    module = run(parse(text), "func.func(chlo-legalize-to-stablehlo)")
    return str(module)


def generic(module: Any) -> str:
    with CONTEXT:
        return module.operation.get_asm(print_generic_op_form=True, enable_debug_info=False)


def walk(op: Any) -> Iterator[Any]:
    """All ops of a jaxlib module, before the ops in their regions."""
    for region in op.regions:
        for block in region:
            for inner in block:
                yield inner.operation
                yield from walk(inner.operation)


def walk_ours(op: Operation) -> Iterator[Operation]:
    for region in op.regions:
        for block in region.blocks:
            for inner in block.ops:
                yield inner
                yield from walk_ours(inner)


def our_module(text: str) -> ModuleOp:
    """The same text, read by our dialects, sdy imported."""
    module = import_module(parse(text))
    import_sdy(module)
    return module


# ---- Comparing propagation -----------------------------------------------------------------------

_SHARDING = re.compile(r"<@[\w.]+, \[([^\]]*)\]([^>]*)>")
_DIM = re.compile(r"\{[^}]*\}")
_CONSTANTS = {"stablehlo.constant", "sdy.constant", "stablehlo.iota"}

Dims = list[str]


def _dims(text: str) -> list[Dims]:
    return [_DIM.findall(match.group(1)) for match in _SHARDING.finditer(text)]


def _rank(type_: Any) -> int:
    match = re.match(r"tensor<((?:\d+x)*)", str(type_))
    return match.group(1).count("x") if match else 0


class Shardings:
    """Shardings by op of a propagated program, constants compared by use."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, list[Dims]]] = []
        """(op or function name, shardings of its constant operands, then of its results)."""

    def add(self, name: str, dims: list[Dims]) -> None:
        self.entries.append((name, [d for d in dims if d]))


def shardy_shardings(text: str, pipeline: str = PROPAGATION) -> Shardings:
    """What Shardy's propagation gives."""
    module = run(parse(text), pipeline)
    result = Shardings()
    constants: dict[Any, Any] = {}
    for op in walk(module.operation):
        name = op.name
        if name == "func.func":
            types = [str(t) for t in op.attributes["function_type"].value.inputs]
            outs = [str(t) for t in op.attributes["function_type"].value.results]
            for key, kinds in (("arg_attrs", types), ("res_attrs", outs)):
                entries = list(op.attributes[key]) if key in op.attributes else [None] * len(kinds)
                for entry, kind in zip(entries, kinds, strict=True):
                    has = entry is not None and "sdy.sharding" in entry
                    dims = _dims(str(entry["sdy.sharding"])) if has else [["{}"] * _rank(kind)]
                    result.add(key, dims)
            continue
        if not len(op.results) or name.startswith(("func.", "sdy.mesh")):
            if name not in ("func.return", "stablehlo.return", "sdy.return"):
                continue
        if _in_body(op):
            continue
        dims = _result_dims(op)
        if name in _CONSTANTS or _follows_constants(op, constants):
            constants[op.results[0]] = dims[0]
            continue
        operands = [constants[v] for v in op.operands if v in constants]
        result.add(_plain(name), operands + dims)
    return result


def _result_dims(op: Any) -> list[Dims]:
    for key in ("sdy.sharding", "sharding", "out_shardings"):
        if key in op.attributes:
            return _dims(str(op.attributes[key]))
    return [["{}"] * _rank(v.type) for v in op.results]


def _in_body(op: Any) -> bool:
    parent = op.parent
    return parent is not None and parent.name in _BODIES


_BODIES = {
    "stablehlo.reduce",
    "stablehlo.reduce_window",
    "stablehlo.scatter",
    "stablehlo.select_and_scatter",
    "stablehlo.sort",
    "stablehlo.map",
    "stablehlo.all_reduce",
    "stablehlo.reduce_scatter",
}


def _follows_constants(op: Any, constants: dict[Any, Any]) -> bool:
    if op.name == "stablehlo.broadcast_in_dim" and _rank(op.operands[0].type) == 0:
        return True
    return (
        op.name in constant_followers()
        and len(op.operands) > 0
        and all(v in constants for v in op.operands)
    )


def _plain(name: str) -> str:
    return {
        "sdy.reshard": "sdy.sharding_constraint",
        "autopar.constraint": "sdy.sharding_constraint",
    }.get(name, name)


def our_shardings(module: ModuleOp) -> Shardings:
    """What our propagation gave (the module is propagated)."""
    from xdsl.dialects.func import FuncOp

    from autopar.dialects.autopar import result_sharding, sharding_of

    result = Shardings()
    constants: dict[int, Dims] = {}

    def dims_of(sharding: Any, rank: int) -> Dims:
        if sharding is None:
            return ["{}"] * rank
        return [str(dim) for dim in sharding.dims]

    for op in walk_ours(module):
        name = op.name
        if isinstance(op, FuncOp):
            for argument in op.body.block.args:
                result.add("arg_attrs", [dims_of(sharding_of(argument), _rank(argument.type))])
            for index, type_ in enumerate(op.function_type.outputs.data):
                result.add("res_attrs", [dims_of(result_sharding(op, index), _rank(type_))])
            continue
        if name == "shard.grid" or name in ("sdy.sharding_group",):
            continue
        if not op.results and name not in ("func.return", "stablehlo.return", "sdy.return"):
            continue
        parent = op.parent_op()
        if parent is not None and parent.name in _BODIES:
            continue
        dims = [dims_of(sharding_of(v), _rank(v.type)) for v in op.results]
        if name in _CONSTANTS or _our_follows(op, constants):
            constants[id(op.results[0])] = dims[0]
            continue
        operands = [constants[id(v)] for v in op.operands if id(v) in constants]
        result.add(_plain(name), operands + dims)
    return result


def _our_follows(op: Operation, constants: dict[int, Dims]) -> bool:
    if op.name == "stablehlo.broadcast_in_dim" and _rank(op.operands[0].type) == 0:
        return True
    return (
        op.name in constant_followers()
        and len(op.operands) > 0
        and all(id(v) in constants for v in op.operands)
    )


def mismatches(ours: Shardings, theirs: Shardings) -> list[str]:
    """Lines that name each op where the two differ."""
    mine, judge = ours.entries, theirs.entries
    lines: list[str] = []
    if [name for name, _ in mine] != [name for name, _ in judge]:
        lines.append(f"different ops: {len(mine)} and {len(judge)}")
        for index, (a, b) in enumerate(zip(mine, judge, strict=False)):
            if a[0] != b[0]:
                return [*lines, f"{index}: ours {a}, Shardy's {b}"]
    for index, ((name, a), (_, b)) in enumerate(zip(mine, judge, strict=False)):
        if a != b:
            lines.append(f"{index} {name}: ours {a}, Shardy's {b}")
    return lines
