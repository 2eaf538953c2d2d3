# ruff: noqa: E501 (MLIR text)
"""Sharding rules: look-up, registration, cache, and what they say about partial results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest
from xdsl.ir import Operation

import autopar
from autopar.dialects import all_dialects, rules
from autopar.dialects.chlo import Chlo
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.rules import registry
from autopar.dialects.rules.core import FactorKind, RuleBuilder, ShardingRule
from autopar.dialects.rules.registry import (
    NO_RULE,
    get_rule,
    has_rule,
    op_classes,
    register_custom_call_rule,
    register_sharding_rule,
)
from autopar.dialects.sdy import Sdy
from autopar.dialects.stablehlo import StableHLO
from autopar.dialects.stablehlo.collectives import COLLECTIVES
from autopar.dialects.traits import Elementwise

from ..passes.shardy import our_module, walk_ours

REDUCTION = FactorKind.REDUCTION


def rule_of(text: str, arguments: str = "%x: tensor<8x4xf32>") -> ShardingRule | None:
    """The rule of the last op of a function."""
    module = our_module(f"func.func @main({arguments}) {{\n {text}\n return\n}}")
    ops = [
        op
        for op in walk_ours(module)
        if op.results and getattr(op.parent_op(), "name", "") == "func.func"
    ]
    return get_rule(ops[-1])


def test_every_op_has_a_rule_or_a_reason() -> None:
    for dialect in (StableHLO, Chlo, Sdy):
        for op in dialect.operations:
            name = op.name
            if name == "stablehlo.custom_call":
                continue
            assert has_rule(name) or name in NO_RULE, (
                f"{name} needs a rule, or declare_no_rule says why it has none"
            )
            assert not (has_rule(name) and name in NO_RULE), (
                f"{name} has a rule: take it out of declare_no_rule"
            )


NOT_IN_XDSL = {"arith.remf"}
"""Ops of upstream dialects that have a rule, and no class in xDSL."""


def test_every_rule_is_of_an_op() -> None:
    """A misspelled name would leave its op without the rule, silently."""
    known = {op.name for load in all_dialects().values() for op in load().operations}
    registry.load_families()
    named = {*registry._RULES, *NO_RULE}  # pyright: ignore[reportPrivateUsage]
    assert named - known == NOT_IN_XDSL


@pytest.mark.usefixtures("clean_registry")
def test_no_two_rules_by_decorator() -> None:
    with pytest.raises(ValueError, match=r"^'stablehlo.tanh' has a sharding rule already, autopar"):
        registry.sharding_rule("stablehlo.tanh")(rows_only)
    with pytest.raises(ValueError, match=r"^'mhlo.topk' has .*custom_call.top_k: register_"):
        registry.custom_call_rule("mhlo.topk")(rows_only)
    assert rule_of("%0 = stablehlo.tanh %x : tensor<8x4xf32>") is not None


def test_what_third_parties_import() -> None:
    """`autopar.dialects.rules` offers every name that it says, and no other."""
    for name in rules.__all__:
        assert getattr(rules, name).__module__.startswith("autopar.dialects.rules.")
    assert rules.register_sharding_rule is register_sharding_rule


def test_a_class_that_there_is_not() -> None:
    message = "op_class='elementwize' is unknown; known: elementwise, pass_through, forward"
    with pytest.raises(ValueError, match=message):
        register_sharding_rule("mine.op", lambda op: None, op_class=cast(Any, "elementwize"))
    with pytest.raises(ValueError, match=message):
        registry.sharding_rule("mine.op", op_class=cast(Any, "elementwize"))(lambda op: None)
    assert not has_rule("mine.op")
    with pytest.raises(
        AttributeError, match=r"'autopar.dialects.rules' has no attribute 'nothing'"
    ):
        rules.nothing  # noqa: B018  # pyright: ignore


def test_no_rule_gives_reasons() -> None:
    assert all(NO_RULE.values())


def test_repeated_ops_share_one_rule() -> None:
    module = our_module(
        "func.func @main(%x: tensor<8x4xf32>) {\n %0 = stablehlo.add %x, %x : tensor<8x4xf32>\n"
        " %1 = stablehlo.add %0, %x : tensor<8x4xf32>\n return\n}"
    )
    first, second = (op for op in walk_ours(module) if op.name == "stablehlo.add")
    assert get_rule(first) is get_rule(second)


@pytest.fixture
def clean_registry() -> Iterator[None]:
    tables: list[dict[str, Any]] = [
        registry._RULES,  # pyright: ignore[reportPrivateUsage]
        registry._CUSTOM_CALLS,  # pyright: ignore[reportPrivateUsage]
        registry._CLASSES,  # pyright: ignore[reportPrivateUsage]
        NO_RULE,
    ]
    op_classes()  # loads what is restored
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)
    registry.clear_cache()


def rows_only(op: Operation) -> ShardingRule:
    return RuleBuilder([(8, 4)], [(8, 4)]).factor([0], [0], 8).build()


SAME = "tensor<8x4xf32>"
CALL = "%0 = stablehlo.custom_call @mine(%x) : (tensor<8x4xf32>) -> tensor<8x4xf32>"


@pytest.mark.usefixtures("clean_registry")
def test_third_party_custom_call() -> None:
    assert rule_of(CALL) is None
    register_custom_call_rule("mine", rows_only)
    rule = rule_of(CALL)
    assert rule is not None and rule.kinds == (
        FactorKind.PASS_THROUGH,
        FactorKind.NEED_REPLICATION,
        FactorKind.NEED_REPLICATION,
    )


@pytest.mark.parametrize("reduced", [0, 1])
def test_the_dimension_that_a_call_names(reduced: int) -> None:
    rule = rule_of(
        "%0:2 = stablehlo.custom_call @PartialReduce(%x, %i, %z, %n) "
        f"{{mhlo.backend_config = {{reduction_dim = {reduced} : i64}}}} : (tensor<8x4xf32>, "
        "tensor<8x4xi32>, tensor<f32>, tensor<i32>) -> (tensor<8x4xf32>, tensor<8x4xi32>)",
        "%x: tensor<8x4xf32>, %i: tensor<8x4xi32>, %z: tensor<f32>, %n: tensor<i32>",
    )
    assert rule is not None
    (factor,) = rule.operands[0][1 - reduced]
    assert rule.kinds[factor] is FactorKind.PASS_THROUGH
    (factor,) = rule.operands[0][reduced]
    assert rule.kinds[factor] is FactorKind.NEED_REPLICATION


def test_elementwise_to_propagation() -> None:
    """By name, as Shardy tells ops apart: collectives have pointwise rules, but are not in it."""
    classes = op_classes()
    elementwise = {name for name, op_class in classes.items() if op_class == "elementwise"}
    assert {"stablehlo.add", "chlo.erf", "arith.select", "autopar.constraint"} <= elementwise
    assert not elementwise & (COLLECTIVES | {"stablehlo.map", "stablehlo.optimization_barrier"})
    traits = {
        op.name
        for dialect in (StableHLO, Chlo)
        for op in dialect.operations
        if op.has_trait(Elementwise) and not op.name.startswith("chlo.broadcast_")
    }
    ours = {name for name in elementwise if name.startswith(("stablehlo.", "chlo."))}
    assert traits == ours - {"chlo.constant_like"}
    assert classes["stablehlo.reshape"] == "pass_through"


@pytest.mark.usefixtures("clean_registry")
def test_third_party_op() -> None:
    register_sharding_rule("stablehlo.tanh", rows_only)
    assert "stablehlo.tanh" not in op_classes()
    rule = rule_of("%0 = stablehlo.tanh %x : tensor<8x4xf32>")
    assert rule is not None and FactorKind.NEED_REPLICATION in rule.kinds


SQUARE = [(8, 4)], [(8, 4)]
PASS = FactorKind.PASS_THROUGH


def made(kind: FactorKind = PASS, reducer: str | None = None, size: int = 8) -> ShardingRule:
    """A rule put together by hand, of one factor on the rows."""
    mapping = (((0,), ()),)
    return ShardingRule((size,), mapping, mapping, (kind,), (reducer,))


WRONG_RULES: dict[str, tuple[Callable[[], ShardingRule], str]] = {
    "too many operands": (
        lambda: RuleBuilder(*SQUARE).factor([0, 0], [0], 8).build(),
        "is for 2 operands, the op has 1",
    ),
    "too few operands": (
        lambda: RuleBuilder([], [(8, 4)]).build(),
        "is for 0 operands, the op has 1",
    ),
    "wrong rank": (
        lambda: RuleBuilder([(8,)], [(8,)]).factor([0], [0], 8).build(),
        "is for a rank of 1 of operand 0, whose rank is 2",
    ),
    "no such dimension": (
        lambda: RuleBuilder(*SQUARE).factor([2], [0], 8).build(),
        "names dimension 2 of operand 0, whose rank is 2",
    ),
    "wrong size": (
        lambda: RuleBuilder(*SQUARE).factor([0], [0], 7).build(),
        "has factors of sizes that make 7 on dimension 0 of operand 0, which is 8",
    ),
    "no such reducer": (
        lambda: RuleBuilder(*SQUARE).reduction([0], 8, "maxx").build(),
        "has the reducer 'maxx'; there are sum, max, min, product",
    ),
    "a reducer by hand": (
        lambda: made(PASS, "sum"),
        "has the reducer 'sum' on a factor of kind pass_through",
    ),
    "no such factor": (
        lambda: ShardingRule((8,), (((0,), (1,)),), (((0,), ()),), (PASS,), (None,)),
        "has no factor 1, which dimension 1 of operand 0 names",
    ),
    "uneven lists": (
        lambda: ShardingRule((8, 4), (((0,), (1,)),), (((0,), (1,)),), (PASS,), (None,)),
        "has 2 factors, but 1 kinds and 1 reducers",
    ),
    "linear without groups": (
        lambda: RuleBuilder(*SQUARE).build(linear=cast(Any, [0])),
        "has linear=[0]: expected groups of operands, as in ((0,), (1,))",
    ),
    "linear in what is not there": (
        lambda: RuleBuilder(*SQUARE).build(linear=((0,), (1,))),
        "names operands [0, 1] in linear or accumulated, the op has 1",
    ),
}


@pytest.mark.usefixtures("clean_registry")
@pytest.mark.parametrize("case", WRONG_RULES)
def test_wrong_rules_are_told(case: str) -> None:
    """At the op, with its name: nothing goes wrong later in propagation or partitioning."""
    function, message = WRONG_RULES[case]
    register_custom_call_rule("mine", lambda op: function())
    register_sharding_rule("stablehlo.tanh", lambda op: function())
    for text, name in (
        (CALL, "custom_call @mine"),
        (f"%0 = stablehlo.tanh %x : {SAME}", "'stablehlo.tanh'"),
    ):
        with pytest.raises(DiagnosticError) as caught:
            rule_of(text)
        assert caught.value.message.startswith(f"the sharding rule of {name} {message}")
        assert caught.value.place is not None


def failing(op: Operation) -> ShardingRule:
    return op.no_such_attribute  # pyright: ignore


def refusing(op: Operation) -> ShardingRule:
    raise DiagnosticError(op, "no such call is known")


BROKEN_RULES: dict[str, tuple[Callable[[Operation], Any], str]] = {
    "raises": (
        failing,
        r"the sharding rule of custom_call @mine failed: AttributeError: .*no_such_attribute.* "
        r"\(.*test_rules.py:\d+\)$",
    ),
    "gives something else": (
        lambda op: [0, None],
        "the sharding rule of custom_call @mine is a list: expected a ShardingRule, or None",
    ),
    "says it itself": (refusing, "^no such call is known$"),
}


@pytest.mark.usefixtures("clean_registry")
@pytest.mark.parametrize("case", BROKEN_RULES)
def test_functions_that_fail_are_told_at_the_op(case: str) -> None:
    function, message = BROKEN_RULES[case]
    register_custom_call_rule("mine", function)
    with pytest.raises(DiagnosticError) as caught:
        rule_of(CALL)
    assert re.search(message, caught.value.message)
    assert isinstance(caught.value.place, Operation)


@pytest.mark.usefixtures("clean_registry")
def test_a_wrong_rule_in_a_whole_program() -> None:
    """`parallelize` says the same."""
    register_sharding_rule(
        "stablehlo.tanh", lambda op: RuleBuilder([(8,)], [(8,)]).factor([0], [0], 8).build()
    )
    step = autopar.parallelize(jnp.tanh, method="shard", mesh=(2,))
    with pytest.raises(DiagnosticError, match=r"rule of 'stablehlo.tanh' is for a rank of 1"):
        step(np.ones((8, 4), np.float32))


def test_a_written_rule_that_does_not_fit() -> None:
    """jaxlib's parser refuses it; ours does not know sdy's rules."""
    module = our_module(
        "func.func @main(%x: tensor<8x4xf32>, %y: tensor<8xf32>) {\n"
        "%0 = stablehlo.custom_call @mine(%y) {sdy.sharding_rule = #sdy.op_sharding_rule<"
        "([i])->([i]) {i=8}, custom>} : (tensor<8xf32>) -> tensor<8xf32>\n"
        f"{CALL.replace('%0', '%1')}\n return\n}}"
    )
    first, second = (op for op in walk_ours(module) if op.name == "stablehlo.custom_call")
    assert get_rule(first) is not None
    second.attributes.update(first.attributes)
    with pytest.raises(DiagnosticError, match=r"the sdy.sharding_rule of custom_call @mine is for"):
        get_rule(second)


def test_a_rule_prints_as_shardy_prints_it() -> None:
    text = (
        "%0 = stablehlo.dot_general %x, %x, contracting_dims = [1] x [1] : "
        "(tensor<8x4xf32>, tensor<8x4xf32>) -> tensor<8x8xf32>"
    )
    assert str(rule_of(text)) == "([i, k], [j, k])->([i, j]) {i=8, j=8, k=4} reduction={k}"
    text = (
        "%c = stablehlo.constant dense<0.0> : tensor<f32>\n"
        "%0 = stablehlo.reduce(%x init: %c) applies stablehlo.maximum across dimensions = [0] : "
        "(tensor<8x4xf32>, tensor<f32>) -> tensor<4xf32>"
    )
    assert str(rule_of(text)).endswith("reduction={i} reducer={i=max}")


def test_written_rule_wins() -> None:
    rule = rule_of(
        "%0 = stablehlo.custom_call @mine(%x) {sdy.sharding_rule = #sdy.op_sharding_rule<"
        "([i, j])->([j, i]) {i=8, j=4} need_replication={j}, custom>} : "
        "(tensor<8x4xf32>) -> tensor<4x8xf32>"
    )
    assert rule is not None and rule.is_custom
    assert rule.results == (((1,), (0,)),)
    assert rule.kinds == (FactorKind.PASS_THROUGH, FactorKind.NEED_REPLICATION)


LINEAR = {
    f"%0 = stablehlo.add %x, %x : {SAME}": ((0, 1),),
    f"%0 = stablehlo.subtract %x, %x : {SAME}": ((0, 1),),
    f"%0 = stablehlo.negate %x : {SAME}": ((0,),),
    f"%0 = stablehlo.multiply %x, %x : {SAME}": ((0,), (1,)),
    f"%0 = stablehlo.divide %x, %x : {SAME}": ((0,),),
    f"%0 = stablehlo.tanh %x : {SAME}": (),
    f"%0 = stablehlo.maximum %x, %x : {SAME}": (),
    f"%0 = stablehlo.convert %x : ({SAME}) -> tensor<8x4xf64>": ((0,),),
    f"%0 = stablehlo.convert %x : ({SAME}) -> tensor<8x4xbf16>": (),
    f"%0 = stablehlo.convert %x : ({SAME}) -> tensor<8x4xi32>": (),
    f"%0 = stablehlo.transpose %x, dims = [1, 0] : ({SAME}) -> tensor<4x8xf32>": ((0,),),
    f"%0 = stablehlo.reshape %x : ({SAME}) -> tensor<32xf32>": ((0,),),
    f"%0 = stablehlo.concatenate %x, %x, dim = 0 : ({SAME}, {SAME}) -> tensor<16x4xf32>": ((0, 1),),
    f"%0 = stablehlo.dot_general %x, %x, contracting_dims = [1] x [1] : ({SAME}, {SAME}) -> tensor<8x8xf32>": (
        (0,),
        (1,),
    ),
}


@pytest.mark.parametrize("text", LINEAR)
def test_linear(text: str) -> None:
    rule = rule_of(text)
    assert rule is not None and rule.linear == LINEAR[text]


@pytest.mark.parametrize(
    "source, target, expected",
    [
        ("i32", "i8", True),
        ("i8", "i32", False),
        ("i1", "i32", False),
        ("i32", "i1", False),
        ("i32", "f32", False),
        ("bf16", "f32", True),
        ("f16", "bf16", False),
        ("bf16", "f16", False),
        ("complex<f32>", "complex<f64>", True),
        ("complex<f64>", "complex<f32>", False),
    ],
)
def test_conversions_that_keep_sums(source: str, target: str, expected: bool) -> None:
    rule = rule_of(
        f"%0 = stablehlo.convert %x : (tensor<8x{source}>) -> tensor<8x{target}>",
        f"%x: tensor<8x{source}>",
    )
    assert rule is not None and (rule.linear == ((0,),)) is expected


@pytest.mark.parametrize("element, linear", [("i32", True), ("i1", False)])
def test_addition_of_bool_is_or(element: str, linear: bool) -> None:
    type_ = f"tensor<8x{element}>"
    rule = rule_of(f"%0 = stablehlo.add %x, %x : {type_}", f"%x: {type_}")
    assert rule is not None and bool(rule.linear) is linear


def test_integer_division_is_not_linear() -> None:
    type_ = "tensor<8xi32>"
    rule = rule_of(f"%0 = stablehlo.divide %x, %x : {type_}", f"%x: {type_}")
    assert rule is not None and rule.linear == ()


@pytest.mark.parametrize(
    "op, reducer",
    [("add", "sum"), ("maximum", "max"), ("minimum", "min"), ("multiply", "product")],
)
def test_reducer_of_a_reduction(op: str, reducer: str) -> None:
    rule = rule_of(
        f"%0 = stablehlo.reduce(%x init: %s) applies stablehlo.{op} across dimensions = [1] : "
        "(tensor<8x4xf32>, tensor<f32>) -> tensor<8xf32>",
        "%x: tensor<8x4xf32>, %s: tensor<f32>",
    )
    assert rule is not None
    assert rule.kinds == (FactorKind.PASS_THROUGH, REDUCTION)
    assert rule.reducers == (None, reducer)
    assert rule.linear == (((0, 1),) if op == "add" else ())


def test_reduction_of_bool() -> None:
    rule = rule_of(
        "%0 = stablehlo.reduce(%x init: %s) applies stablehlo.add across dimensions = [0] : "
        "(tensor<8xi1>, tensor<i1>) -> tensor<i1>",
        "%x: tensor<8xi1>, %s: tensor<i1>",
    )
    assert rule is not None and rule.reducers == ("bitwise_or",) and rule.linear == ()


def test_unknown_reducer_needs_its_dimension_whole() -> None:
    rule = rule_of(
        "%0 = stablehlo.reduce(%x init: %s) across dimensions = [1] : "
        "(tensor<8x4xf32>, tensor<f32>) -> tensor<8xf32>\n"
        " reducer(%a: tensor<f32>, %b: tensor<f32>) {\n"
        "  %1 = stablehlo.subtract %a, %b : tensor<f32>\n"
        "  stablehlo.return %1 : tensor<f32>\n }",
        "%x: tensor<8x4xf32>, %s: tensor<f32>",
    )
    assert rule is not None and rule.kinds[1] is FactorKind.NEED_REPLICATION


def test_tosa_matmul() -> None:
    from xdsl.parser import Parser

    from autopar.dialects import make_context

    source = (
        "func.func @f(%a: tensor<2x8x4xf32>, %b: tensor<2x4x6xf32>) {\n"
        '%0 = "tosa.matmul"(%a, %b) : (tensor<2x8x4xf32>, tensor<2x4x6xf32>) -> tensor<2x8x6xf32>\n'
        "func.return\n}"
    )
    module = Parser(make_context(), source).parse_module()
    (op,) = (op for op in walk_ours(module) if "matmul" in op.name)
    rule = get_rule(op)
    assert rule is not None and rule.linear == ((0,), (1,))
    assert rule.kinds[-1] is REDUCTION and rule.factor_sizes == (2, 8, 6, 4)
