"""Ops and custom_calls of third parties: their rules and routines reach partitioning."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import pytest
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, f32
from xdsl.ir import Operation

from autopar.dialects import make_context
from autopar.dialects.diagnostics import DiagnosticError, collect_remarks
from autopar.dialects.rules import registry
from autopar.dialects.rules.access import backend_config
from autopar.dialects.rules.core import FactorKind, RuleBuilder, ShardingRule
from autopar.dialects.rules.elementwise import pointwise_rule
from autopar.dialects.rules.registry import register_custom_call_rule, register_sharding_rule
from autopar.dialects.sharding import Grid
from autopar.dialects.tensors import shape_of
from autopar.lowering.parse import parse_module
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.flops import flops_of
from autopar.passes.cost.prices import CostModel
from autopar.passes.cost.program import Price, price_of
from autopar.passes.entry import main_function
from autopar.passes.importing.arguments import argument_kinds
from autopar.passes.manager import run_pipeline
from autopar.passes.partition.localize import (
    LocalOp,
    core,
    register_custom_call_localizer,
    register_localizer,
)

TABLES = (
    registry._RULES,  # pyright: ignore[reportPrivateUsage]
    registry._CLASSES,  # pyright: ignore[reportPrivateUsage]
    registry._CUSTOM_CALLS,  # pyright: ignore[reportPrivateUsage]
    registry._FLOPS,  # pyright: ignore[reportPrivateUsage]
    registry.NO_RULE,
    core._LOCALIZERS,  # pyright: ignore[reportPrivateUsage]
)


@pytest.fixture(autouse=True)
def clean_tables() -> Iterator[None]:
    registry.op_classes()  # loads what is restored
    before = [dict(table) for table in TABLES]
    yield
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)  # pyright: ignore[reportArgumentType, reportCallIssue]
    core._PERMUTING.clear()  # pyright: ignore[reportPrivateUsage]
    registry.clear_cache()


UNREGISTERED = '"mine.sum_of_exp"(%a) : (tensor<10xf32>) -> tensor<f32>'
CUSTOM_CALL = "stablehlo.custom_call @sum_of_exp(%a) : (tensor<10xf32>) -> tensor<f32>"


def partitioned(op: str, result: str = "tensor<f32>", returned: str = "%0") -> str:
    context = make_context()
    context.allow_unregistered = True
    module = parse_module(
        f"""
        sdy.mesh @mesh = <["x"=4]>
        func.func @main(
            %a: tensor<10xf32> {{sdy.sharding = #sdy.sharding<@mesh, [{{"x"}}]>}}) -> {result} {{
          %0 = {op}
          return {returned} : {result}
        }}""",
        context=context,
    )
    run_pipeline(module, "import-sdy,sharding-propagation,shard-partition", context)
    return str(module)


def sum_rule(op: Operation) -> ShardingRule:
    return RuleBuilder([(10,)], [()]).reduction([0], 10).build()


def mask_by_minus_infinity(local: LocalOp) -> None:
    lowest = local.builder().constant(np.array(-np.inf, np.float32), f32)
    local.mask_reduced([lowest])
    local.set_local_types()


@pytest.mark.parametrize("text", [UNREGISTERED, CUSTOM_CALL])
def test_a_routine_says_what_stands_in_the_padding(text: str) -> None:
    """exp(0) is 1: the neutral element of the sum in the padding would be counted."""
    register_sharding_rule("mine.sum_of_exp", sum_rule)
    register_custom_call_rule("sum_of_exp", sum_rule)
    assert "dense<0xff800000>" not in partitioned(text).lower()
    register_localizer("mine.sum_of_exp", mask_by_minus_infinity)
    register_custom_call_localizer("sum_of_exp", mask_by_minus_infinity)
    masked = partitioned(text)
    assert "dense<0xff800000>" in masked.lower(), masked
    assert "shard.all_reduce" in masked


def test_only_the_target_that_was_meant() -> None:
    register_custom_call_rule("sum_of_exp", sum_rule)
    register_custom_call_localizer("another", mask_by_minus_infinity)
    assert "dense<0xff800000>" not in partitioned(CUSTOM_CALL).lower()


@pytest.mark.parametrize(
    "form", ['"mine.{}"(%a) : {}', "stablehlo.custom_call @{}(%a) : {}"], ids=["op", "custom_call"]
)
def test_ops_that_differ_in_their_routines_alone(form: str) -> None:
    """What was found of the first does not hold for the second."""
    for name in ("plain", "masked"):
        register_sharding_rule(f"mine.{name}", sum_rule)
        register_custom_call_rule(name, sum_rule)
    register_localizer("mine.masked", mask_by_minus_infinity)
    register_custom_call_localizer("masked", mask_by_minus_infinity)
    type = "(tensor<10xf32>) -> tensor<f32>"
    first, second = form.format("plain", type), form.format("masked", type)
    program = f"{first}\n%1 = {second}\n%2 = stablehlo.add %0, %1 : tensor<f32>"
    assert "dense<0xff800000>" in partitioned(program, returned="%2").lower()


def test_a_rule_may_depend_on_the_arguments_of_a_call() -> None:
    """`jax.ffi.ffi_call` leaves them in `mhlo.backend_config`."""

    def rule(op: Operation) -> ShardingRule:
        kept = backend_config(op)["keeps"]
        assert isinstance(kept, IntegerAttr)
        kind = FactorKind.PASS_THROUGH if kept.value.data else FactorKind.NEED_REPLICATION
        return RuleBuilder([(10,)], [(10,)]).factor([0], [0], 10, kind).build()

    register_custom_call_rule("move", rule)
    type = "(tensor<10xf32>) -> tensor<10xf32>"
    calls = [
        f"stablehlo.custom_call @move({value}) {{mhlo.backend_config = {{keeps = {keeps} : i64}}}}"
        f" : {type}"
        for value, keeps in (("%a", 1), ("%0", 0))
    ]
    text = partitioned("\n%1 = ".join(calls), "tensor<10xf32>", returned="%1")
    assert text.count("(tensor<3xf32>) -> tensor<3xf32>") == 1, text
    assert text.count(type) == 1, text


def test_a_routine_may_split_permutations() -> None:
    def rule(op: Operation) -> ShardingRule:
        return RuleBuilder([(10,)], [(10,)]).factor([0], [0], 10, FactorKind.PERMUTATION).build()

    seen: list[tuple[tuple[int, ...], ...]] = []

    def routine(local: LocalOp) -> None:
        seen.append(local.factors)
        local.set_local_types()

    register_sharding_rule("mine.turn", rule)
    op = '"mine.turn"(%a) : (tensor<10xf32>) -> tensor<10xf32>'
    assert "(tensor<10xf32>) -> tensor<10xf32>" in partitioned(op, "tensor<10xf32>")
    register_localizer("mine.turn", routine, splits_permutations=True)
    assert "(tensor<3xf32>) -> tensor<3xf32>" in partitioned(op, "tensor<10xf32>")
    assert seen == [((0,),)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (UNREGISTERED, "'mine.sum_of_exp' has no sharding rule: it is replicated on all 4 devices"),
        (CUSTOM_CALL, "custom_call @sum_of_exp has no sharding rule: it is replicated on all 4"),
    ],
)
def test_the_remark_names_the_op_and_the_remedy(text: str, message: str) -> None:
    with collect_remarks() as remarks:
        partitioned(text)
    (found,) = [remark for remark in remarks if "no sharding rule" in remark.message]
    assert found.message.startswith(message)
    name = "register_custom_call_rule" if "custom_call" in text else "register_sharding_rule"
    assert found.message.endswith(f"(4 result bytes each); {name} gives it one")
    assert repr(found) == found.text


@pytest.mark.parametrize("name", ["partition_id", "replica_id"])
def test_no_remark_on_ops_that_have_no_rule_on_purpose(name: str) -> None:
    with collect_remarks() as remarks:
        text = partitioned(f"stablehlo.{name} : tensor<ui32>", "tensor<ui32>")
    assert name in text
    assert not remarks


FLOPS = 2 * 10**12


@pytest.mark.parametrize("call", [False, True])
def test_a_rule_states_flops(*, call: bool) -> None:
    """A kernel of one operand: with FLOPs it is worth being split, and is priced by its part."""

    def rule(op: Operation) -> ShardingRule:
        rows, width = shape_of(op.results[0].type)
        return RuleBuilder([(rows, width)], [(rows, width)]).factor([0], [0], rows).build()

    def flops(op: Operation) -> int:
        return FLOPS * prod(shape_of(op.results[0].type)) // (64 * 64)

    op = '"mine.kernel"(%a)'
    if call:
        op = "stablehlo.custom_call @kernel(%a)"

    def register(given: registry.FlopsFunction | None) -> None:
        if call:
            register_custom_call_rule("kernel", rule, flops=given)
        else:
            register_sharding_rule("mine.kernel", rule, op_class="elementwise", flops=given)

    text = f"""
        func.func @main(%a: tensor<64x64xf32>) -> tensor<64x64xf32> {{
          %0 = {op} : (tensor<64x64xf32>) -> tensor<64x64xf32>
          return %0 : tensor<64x64xf32>
        }}"""
    prices = CostModel.of(read_cluster("8xh100"), Grid("mesh", (("x", 8),)))
    rate = prices.links.cluster.device.flops_per_second("f32")
    for given, parts in ((flops, 8), (None, None)):
        register(given)
        context = make_context()
        context.allow_unregistered = True
        module = parse_module(text, "kernel.mlir", context)
        run_pipeline(module, "auto-shard{grid=8 axis-names=x}", context)
        planned = price_of_partitioned(module, prices)
        if parts is None:
            assert planned.compute == 0 and flops_of(module) == 0
        else:
            assert planned.compute == pytest.approx(FLOPS / parts / rate)
            assert flops_of(module) == FLOPS // parts


def test_flops_of_an_op_that_has_some_are_replaced() -> None:
    name = "stablehlo.dot_general"
    register_sharding_rule(name, registry._RULES[name], flops=lambda _: 7)  # pyright: ignore[reportPrivateUsage]
    text = """
        func.func @main(%a: tensor<4x4xf32>) -> tensor<4x4xf32> {
          %0 = stablehlo.dot_general %a, %a, contracting_dims = [1] x [0]
            : (tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32>
          return %0 : tensor<4x4xf32>
        }"""
    assert flops_of(parse_module(text, "dot.mlir", make_context())) == 7


def price_of_partitioned(module: ModuleOp, prices: CostModel) -> Price:
    run_pipeline(module, "insert-reshards,shard-partition", make_context())
    return price_of(module, prices)


@pytest.mark.parametrize(
    ("flops", "message"),
    [
        (lambda _: -1, "the function of the FLOPs of 'mine.kernel' gives -1: expected at least 0"),
        (lambda _: 1 // 0, "the function of the FLOPs of 'mine.kernel' failed: ZeroDivisionError"),
    ],
)
def test_wrong_flops_name_the_op(flops: registry.FlopsFunction, message: str) -> None:
    register_sharding_rule("mine.kernel", pointwise_rule, flops=flops)
    context = make_context()
    context.allow_unregistered = True
    op = '"mine.kernel"(%a) : (tensor<64xf32>) -> tensor<64xf32>'
    text = f"""
        func.func @main(%a: tensor<64xf32>) -> tensor<64xf32> {{
          %0 = {op}
          return %0 : tensor<64xf32>
        }}"""
    module = parse_module(text, "kernel.mlir", context)
    with pytest.raises(DiagnosticError) as info:
        flops_of(module)
    assert message in str(info.value)


def test_what_a_custom_call_computes_with_is_a_parameter() -> None:
    """A kernel of a third party may be a dot: nothing says so."""
    module = parse_module(
        """
        func.func @main(
            %w: tensor<8x8xf32> {tf.aliasing_output = 0 : i32},
            %m: tensor<8x8xf32> {tf.aliasing_output = 1 : i32}, %x: tensor<4x8xf32>)
            -> (tensor<8x8xf32>, tensor<8x8xf32>) {
          %0 = stablehlo.custom_call @kernel(%x, %w)
              : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
          %1 = stablehlo.add %m, %0 : tensor<8x8xf32>
          %2 = stablehlo.subtract %w, %1 : tensor<8x8xf32>
          return %2, %1 : tensor<8x8xf32>, tensor<8x8xf32>
        }""",
        context=make_context(),
    )
    assert argument_kinds(main_function(module)) == ["parameter", "optimizer_state", "batch"]
