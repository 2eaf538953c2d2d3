"""Names that are not UTF-8, where jaxlib's bindings end the process when they are asked for one."""

from __future__ import annotations

import pytest

from autopar.dialects.diagnostics import DiagnosticError
from autopar.lowering.importer import import_module
from autopar.lowering.parse import parse_module, parse_native
from autopar.lowering.print import print_module
from tests.lowering.test_roundtrip import check

OPS = [
    '"foo.a"() : () -> () loc("a\\FF.py":1:2)',
    '"foo.a"() : () -> () loc("n\\FF"("b\\FE\\C3\\A9\\5C\\22":1:2 to 3:4))',
    '"foo.a"() : () -> () loc(callsite("n\\FF" at fused["x\\80", "y":1:2]))',
    '"foo.a\\FF"() {b} : () -> ()',
    '"foo.a"() {"b.\\FF" = 1 : i32, c = "\\FF"} : () -> ()',
    '"foo.a"() {x = {"b.\\FF" = [{"c\\FF"}]}} : () -> ()',
    '"foo.a"() {x = @"s\\FF", y = @a::@"s\\FF"} : () -> ()',
    'func.func private @f(!foo.x<"\\FF">)',
]


@pytest.mark.parametrize("op", OPS)
def test_names_that_are_not_utf8(op: str) -> None:
    check(parse_native(f"module {{ {op} }}"))


def test_names_that_are_not_utf8_in_text() -> None:
    text = f"module {{ {OPS[0]} }}"
    printed = print_module(parse_module(text), locations=True)
    assert 'loc("a\\FF.py":1:2)' in printed
    module = import_module(parse_native(text))
    assert '"a\\FF.py":1:2' in print_module(module, use_jaxlib=False, locations=True)


REFUSED = [
    ('"stablehlo.add"() : () -> () loc("n\\FF.py":1:2)', r"n\?.py:1:2: .* requires one result"),
    ('"stablehlo.ad\\FF"() : () -> ()', r"m.mlir:1:10: .*'stablehlo.ad\?' found in dialect"),
    ('"func.call"() {callee = @"n\\FF"} : () -> ()', r"'n\?' does not reference"),
]


@pytest.mark.parametrize(("op", "message"), REFUSED)
def test_refused_modules_with_such_names(op: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        parse_module(f"module {{ {op} }}", "m.mlir")


def test_refused_exports_with_such_names() -> None:
    module = parse_module('module { func.func private @"n\\FF"() attributes {a.b = "\\FF"} }')
    (func,) = module.ops
    func.properties["sym_visibility"] = func.properties["function_type"]
    with pytest.raises(DiagnosticError, match="cannot have public visibility"):
        print_module(module)
