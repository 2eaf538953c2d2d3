"""The pass sharding-propagation: what it guarantees beyond agreeing with Shardy."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation

from autopar.dialects import make_context
from autopar.dialects.autopar import result_sharding, sharding_of
from autopar.dialects.diagnostics import DiagnosticError
from autopar.passes.sharding.sharding_propagation import ShardingPropagationPass

from .shardy import our_module, walk_ours

MESH = 'sdy.mesh @mesh = <["a"=2, "b"=4]>\n'
T = "tensor<8x16xf32>"
ROWS = '{sdy.sharding = #sdy.sharding<@mesh, [{"a"}, {}]>}'


def propagated(text: str) -> ModuleOp:
    module = our_module(text)
    ShardingPropagationPass().apply(make_context(), module)
    module.verify()
    return module


def ops(module: ModuleOp, name: str) -> list[Operation]:
    return [op for op in walk_ours(module) if op.name == name]


def dims(op: Operation) -> list[str]:
    sharding = sharding_of(op.results[0])
    assert sharding is not None
    return [str(dim) for dim in sharding.dims]


def test_without_a_grid_nothing_happens() -> None:
    text = f"func.func @main(%x: {T}) -> {T} {{\n return %x : {T}\n}}"
    module = our_module(text)
    before = str(module)
    ShardingPropagationPass().apply(make_context(), module)
    assert str(module) == before


def test_every_value_is_annotated_and_closed() -> None:
    module = propagated(
        MESH + f"func.func @main(%x: {T} {ROWS}, %y: tensor<3xf32>) -> ({T}, tensor<3xf32>) {{\n"
        f" %0 = stablehlo.tanh %x : {T}\n %1 = stablehlo.negate %y : tensor<3xf32>\n"
        f" return %0, %1 : {T}, tensor<3xf32>\n}}"
    )
    (func,) = ops(module, "func.func")
    assert isinstance(func, FuncOp)
    found = [sharding_of(argument) for argument in func.body.block.args]
    found += [result_sharding(func, index) for index in range(2)]
    found += [sharding_of(op.results[0]) for op in func.body.block.ops if op.results]
    assert len(found) == 6
    for sharding in found:
        assert sharding is not None
        assert not any(dim.is_open or dim.priority for dim in sharding.dims)


def test_a_second_run_changes_nothing() -> None:
    module = propagated(
        MESH + f"func.func @main(%x: {T} {ROWS}, %y: {T}) -> {T} {{\n"
        f" %c = stablehlo.constant dense<1.0> : {T}\n %0 = stablehlo.add %x, %c : {T}\n"
        f" %1 = stablehlo.multiply %y, %c : {T}\n"
        f" %2 = stablehlo.transpose %1, dims = [1, 0] : ({T}) -> tensor<16x8xf32>\n"
        f" %3 = stablehlo.transpose %2, dims = [1, 0] : (tensor<16x8xf32>) -> {T}\n"
        f" %4 = stablehlo.subtract %0, %3 : {T}\n return %4 : {T}\n}}"
    )
    before = str(module)
    ShardingPropagationPass().apply(make_context(), module)
    assert str(module) == before


def test_uses_of_a_constant_get_their_own_copy() -> None:
    columns = '{sdy.sharding = #sdy.sharding<@mesh, [{}, {"b"}]>}'
    module = propagated(
        MESH + f"func.func @main(%x: {T} {ROWS}, %y: {T} {columns}, %z: {T} {ROWS}) -> "
        f"({T}, {T}, {T}) {{\n %c = stablehlo.constant dense<1.0> : {T}\n"
        f" %0 = stablehlo.add %x, %c : {T}\n %1 = stablehlo.add %y, %c : {T}\n"
        f" %2 = stablehlo.add %z, %c : {T}\n return %0, %1, %2 : {T}, {T}, {T}\n}}"
    )
    first, second = ops(module, "stablehlo.constant")
    assert [dims(first), dims(second)] == [['{"a"}', "{}"], ["{}", '{"b"}']]
    adds = ops(module, "stablehlo.add")
    assert [add.operands[1].owner for add in adds] == [first, second, first]


def test_chlo_ops_let_shardings_through() -> None:
    module = propagated(
        MESH + f"func.func @main(%x: {T} {ROWS}) -> {T} {{\n %0 = chlo.square %x : {T} -> {T}\n"
        f" %1 = chlo.erf %0 : {T} -> {T}\n return %1 : {T}\n}}"
    )
    assert dims(ops(module, "chlo.square")[0]) == ['{"a"}', "{}"]
    assert dims(ops(module, "chlo.erf")[0]) == ['{"a"}', "{}"]


def test_calls_that_were_not_inlined() -> None:
    module = propagated(
        MESH + f"func.func @main(%x: {T} {ROWS}) -> {T} {{\n %0 = call @f(%x) : ({T}) -> {T}\n"
        f" %1 = stablehlo.tanh %0 : {T}\n return %1 : {T}\n}}\n"
        f"func.func private @f(%x: {T}) -> {T} {{\n %0 = stablehlo.negate %x : {T}\n"
        f" return %0 : {T}\n}}"
    )
    for name in ("stablehlo.negate", "stablehlo.tanh", "func.call"):
        assert dims(ops(module, name)[0]) == ['{"a"}', "{}"], name


def test_functions_other_than_main() -> None:
    module = propagated(
        MESH + f"func.func @one(%x: {T} {ROWS}) -> {T} {{\n %0 = stablehlo.tanh %x : {T}\n"
        f" return %0 : {T}\n}}\nfunc.func @two(%x: {T}) -> ({T} {ROWS}) {{\n"
        f" %0 = stablehlo.negate %x : {T}\n return %0 : {T}\n}}"
    )
    for name in ("stablehlo.tanh", "stablehlo.negate"):
        assert dims(ops(module, name)[0]) == ['{"a"}', "{}"], name


def test_sub_axes_stay_inside_the_program() -> None:
    module = propagated(
        MESH + 'func.func @main(%x: tensor<16xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"b"}]>})'
        " -> tensor<2x8xf32> {\n"
        " %0 = stablehlo.reshape %x : (tensor<16xf32>) -> tensor<2x8xf32>\n"
        " return %0 : tensor<2x8xf32>\n}"
    )
    assert dims(ops(module, "stablehlo.reshape")[0]) == ['{"b":(1)2}', '{"b":(2)2}']
    (func,) = ops(module, "func.func")
    assert isinstance(func, FuncOp)
    result = result_sharding(func, 0)
    assert result is not None and result.is_replicated


def test_a_demanded_partial_stays() -> None:
    module = propagated(
        MESH + f"func.func @main(%x: {T}, %y: tensor<16x4xf32>) -> tensor<8x4xf32> {{\n"
        f" %0 = stablehlo.dot_general %x, %y, contracting_dims = [1] x [0] : "
        f"({T}, tensor<16x4xf32>) -> tensor<8x4xf32>\n"
        ' %1 = sdy.sharding_constraint %0 <@mesh, [{}, {}], unreduced={"a"}> : tensor<8x4xf32>\n'
        " return %1 : tensor<8x4xf32>\n}"
    )
    (func,) = ops(module, "func.func")
    assert isinstance(func, FuncOp)
    for sharding in (
        sharding_of(ops(module, "stablehlo.dot_general")[0].results[0]),
        sharding_of(ops(module, "autopar.constraint")[0].results[0]),
        result_sharding(func, 0),
    ):
        assert sharding is not None and [axis.name for axis in sharding.partial_axes] == ["a"]


ERRORS = {
    'an unknown grid: #autopar.sharding<@other, [{"a"}, {}]>': "@other, which is not declared",
    'an unknown axis: #autopar.sharding<@mesh, [{"q"}, {}]>': 'axis "q" does not exist',
    'a wrong rank: #autopar.sharding<@mesh, [{"a"}]>': "has 1 dimensions, the tensor has 2",
    'an axis twice: #autopar.sharding<@mesh, [{"a"}, {"a"}]>': 'uses axis "a" twice',
    'a bad sub-axis: #autopar.sharding<@mesh, [{"b":(1)3}, {}]>': "does not divide",
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case: str) -> None:
    from xdsl.parser import Parser

    sharding = case.split(": ", 1)[1]
    context = make_context()
    module = Parser(
        context,
        'builtin.module { shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}\n'
        f"func.func @main(%x: {T} {{autopar.sharding = {sharding}}}) -> {T} {{\n"
        f"func.return %x : {T}\n}} }}",
    ).parse_module()
    with pytest.raises(DiagnosticError) as error:
        ShardingPropagationPass().apply(context, module)
    assert ERRORS[case] in str(error.value)
    assert "argument 0 of @main" in str(error.value)
