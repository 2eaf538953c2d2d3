"""The autopar dialect: attributes, constraint and reshard, helpers on values."""

from __future__ import annotations

import pytest
from xdsl.context import Context
from xdsl.dialects import builtin, func
from xdsl.dialects.test import Test
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError, VerifyException

from autopar.dialects.autopar import (
    Autopar,
    ConstraintOp,
    ShardingAttr,
    StrategyAttr,
    result_sharding,
    set_arg_shardings,
    set_result_sharding,
    set_sharding,
    sharding_of,
)
from autopar.dialects.sharding import AxisRef, DimSharding, Partial, Sharding

ATTR = (
    '#autopar.sharding<@mesh, [{"x"}, {"y":(1)2, ?}p1, {}, {?}], replicated={"z"}, '
    'partial={sum = ["w"], max = ["u":(2)2]}>'
)
SHARDING = Sharding(
    "mesh",
    (
        DimSharding((AxisRef("x"),)),
        DimSharding((AxisRef("y", 1, 2),), True, 1),
        DimSharding(),
        DimSharding((), True),
    ),
    (AxisRef("z"),),
    (Partial("sum", (AxisRef("w"),)), Partial("max", (AxisRef("u", 2, 2),))),
)


def parser(text: str) -> Parser:
    ctx = Context()
    for dialect in (builtin.Builtin, func.Func, Test, Autopar):
        ctx.load_dialect(dialect)
    return Parser(ctx, text)


def parse(text: str) -> builtin.ModuleOp:
    module = parser(text).parse_module()
    module.verify()
    return module


def test_sharding_attribute() -> None:
    attr = parser(ATTR).parse_attribute()
    assert attr == ShardingAttr(SHARDING)
    assert str(attr) == ATTR


def test_strategy_attribute() -> None:
    text = '#autopar.strategy<[["x"], [], ["y":(1)2, "z"]]>'
    attr = parser(text).parse_attribute()
    assert attr == StrategyAttr(((AxisRef("x"),), (), (AxisRef("y", 1, 2), AxisRef("z"))))
    assert str(attr) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('#autopar.sharding<@m, [{"x"}q1]>', "expected a priority such as p1"),
        ('#autopar.sharding<@m, [{"x":(0)2}]>', "needs a pre-size of at least 1"),
        ("#autopar.sharding<@m, [], partial={avg = []}>", "unknown reduction kind avg"),
        ("#autopar.sharding<[]>", "symbol name"),
    ],
)
def test_parse_errors(text: str, message: str) -> None:
    with pytest.raises(ParseError) as error:
        parser(text).parse_attribute()
    assert message in str(error.value)


PROGRAM = """
func.func @f(%a: tensor<8x4xf32> {autopar.sharding = #autopar.sharding<@m, [{"x"}, {}]>, keep = 1},
             %b: tensor<f32>) -> (tensor<8x4xf32>, tensor<f32>) {
  %0 = autopar.constraint %a {sharding = #autopar.sharding<@m, [{}, {"x"}]>} : tensor<8x4xf32>
  %1 = autopar.reshard %0 {sharding = #autopar.sharding<@m, [{"x"}, {}]>} : tensor<8x4xf32>
  %2, %3 = "test.op"() : () -> (tensor<8x4xf32>, tensor<f32>)
  return %1, %b : tensor<8x4xf32>, tensor<f32>
}
"""


def test_ops_round_trip_pretty_and_generic() -> None:
    module = parse(PROGRAM)
    assert str(parse(str(module))) == str(module)
    generic = (
        '%0 = "autopar.constraint"(%a) <{sharding = #autopar.sharding<@m, [{}, {"x"}]>}> : '
        "(tensor<8x4xf32>) -> tensor<8x4xf32>"
    )
    line = '%0 = autopar.constraint %a {sharding = #autopar.sharding<@m, [{}, {"x"}]>} : ' + (
        "tensor<8x4xf32>"
    )
    assert str(parse(PROGRAM.replace(line, generic))) == str(module)


def test_rank_mismatch() -> None:
    with pytest.raises(VerifyException) as error:
        parse(PROGRAM.replace('[{}, {"x"}]', '[{"x"}]'))
    assert (
        "'autopar.constraint' op: sharding <@m, [{\"x\"}]> has 1 dimensions, the value of type "
        "tensor<8x4xf32> has 2"
    ) in str(error.value)


def test_helpers() -> None:
    module = parse(PROGRAM)
    function = next(iter(module.ops))
    assert isinstance(function, func.FuncOp)
    a, b = function.args
    constraint, _, pair, _ = function.body.block.ops
    x = Sharding.of("m", [["x"], []])
    y = Sharding.of("m", [[], ["y"]])
    assert sharding_of(a) == x and sharding_of(b) is None
    assert sharding_of(constraint.results[0]) == Sharding.of("m", [[], ["x"]])
    set_sharding(constraint.results[0], y)
    assert isinstance(constraint, ConstraintOp) and constraint.sharding.data == y
    set_sharding(a, y)
    assert sharding_of(a) == y
    assert function.arg_attrs is not None and "keep" in function.arg_attrs.data[0].data
    set_sharding(a, None)
    assert sharding_of(a) is None
    assert sharding_of(pair.results[1]) is None
    set_sharding(pair.results[1], Sharding.of("m", []))
    assert sharding_of(pair.results[0]) == Sharding.fully_replicated("m", 2, is_open=True)
    set_sharding(pair.results[0], x)
    assert sharding_of(pair.results[0]) == x
    assert result_sharding(function, 0) is None
    set_result_sharding(function, 0, x)
    assert result_sharding(function, 0) == x and result_sharding(function, 1) is None
    set_arg_shardings(function, [y, None])
    assert sharding_of(a) == y and sharding_of(b) is None
    module.verify()
    assert str(parse(str(module))) == str(module)
