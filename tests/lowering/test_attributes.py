"""Mistakes in the attributes autopar.* of a text: errors with a place, with jaxlib and without."""

from __future__ import annotations

import pytest

from autopar.dialects.diagnostics import DiagnosticError
from autopar.lowering.parse import parse_module

MODULE = """"builtin.module"() ({
  "func.func"() <{arg_attrs = [{ARGUMENT}], function_type = (tensor<8x16xf32>) -> tensor<8x16xf32>,
    sym_name = "main"}> ({
  ^bb0(%a: tensor<8x16xf32>):
    %0 = "stablehlo.tanh"(%a) {OP} : (tensor<8x16xf32>) -> tensor<8x16xf32>
    "func.return"(%0) : (tensor<8x16xf32>) -> ()
  }) : () -> ()
}) {MODULE} : () -> ()
"""
SHARDING = "autopar.sharding = #autopar.sharding<@mesh, "
WRONG = [
    ("ARGUMENT", SHARDING + '[{"x"} {}]>', "expected"),
    ("ARGUMENT", SHARDING + "[{x}, {}]>", "string literal expected"),
    ("ARGUMENT", SHARDING + '[{"x"}q1, {}]>', "expected a priority such as p1"),
    ("ARGUMENT", SHARDING + '[{"x"}, {}], partial={foo = ["y"]}>', "unknown reduction kind foo"),
    ("ARGUMENT", SHARDING + '[{"x"}, {}] junk>', "expected"),
    ("ARGUMENT", SHARDING + '[{"y":(0)2}, {}]>', "needs a pre-size of at least 1"),
    ("ARGUMENT", 'autopar.sharding = "foo"', "expected a sharding"),
    ("ARGUMENT", "autopar.sharding = 3 : i64", "expected a sharding"),
    ("ARGUMENT", "autopar.shrading = 3 : i64", "did you mean 'autopar.sharding'?"),
    ("ARGUMENT", 'autopar.batch_dim = "x"', "expected an integer"),
    ("ARGUMENT", "autopar.global = 3 : i64", "expected a type"),
    ("ARGUMENT", "autopar.layout = 3 : i64", "expected a layout"),
    ("OP", SHARDING + '[{"x"}, {}]>', "expected a list of shardings"),
    ("OP", "autopar.sharding = [#autopar.sharding<@mesh, [{x}, {}]>]", "string literal expected"),
    ("OP", 'autopar.strategy = "hi"', "expected a strategy"),
    ("OP", "autopar.strategy = 3 : i64", "expected a strategy"),
    ("OP", "autopar.strategy = #autopar.stratgy<[[]]>", "autopar.stratgy"),
    ("MODULE", "autopar.grid = 3 : i64", "is no grid"),
    ("MODULE", 'autopar.grid = {axes = ["q"], shape = array<i64: 2, 4>}', "is no grid"),
]


@pytest.mark.parametrize("use_jaxlib", [True, False])
@pytest.mark.parametrize(("place", "attribute", "message"), WRONG)
def test_mistakes(place: str, attribute: str, message: str, use_jaxlib: bool) -> None:
    text = MODULE
    for name in ("ARGUMENT", "OP", "MODULE"):
        text = text.replace(f"{{{name}}}", f"{{{attribute if name == place else ''}}}")
    with pytest.raises(DiagnosticError, match=r"d\.mlir:\d+:\d+: error: ") as found:
        parse_module(text, "d.mlir", use_jaxlib=use_jaxlib)
    assert message in found.value.message
    if use_jaxlib:
        line = {"ARGUMENT": 2, "OP": 5, "MODULE": 1}[place]
        assert str(found.value).startswith(f"d.mlir:{line}:"), str(found.value)
