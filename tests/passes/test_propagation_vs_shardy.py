# ruff: noqa: E501 (MLIR text)
"""Our sharding propagation against Shardy's, op by op."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopar.lowering.exporter import export_module
from autopar.passes.importing.export_sdy import export_sdy
from autopar.passes.sharding.propagation import propagate_shardings

from .random_stablehlo import random_program
from .shardy import (
    Shardings,
    legalise_chlo,
    mismatches,
    our_module,
    our_shardings,
    parse,
    run,
    shardy_shardings,
)


def compare(text: str) -> tuple[list[str], Shardings]:
    """Where the two differ, and what ours gave.

    Dead code is removed first: Shardy's driver drops it on the way. What export-sdy makes of ours
    must be a module that jaxlib accepts, with the same shardings.
    """
    text = str(run(parse(legalise_chlo(text)), "canonicalize"))
    module = our_module(text)
    propagate_shardings(module)
    ours = our_shardings(module)
    export_sdy(module)
    exported = export_module(module)
    assert exported.operation.verify()
    again = mismatches(ours, shardy_shardings(str(exported), "symbol-dce"))
    return mismatches(ours, shardy_shardings(text)) + [f"exported: {line}" for line in again], ours


def check(text: str) -> None:
    lines, ours = compare(text)
    assert not lines, "\n".join(lines)
    assert any('"' in axes for _, dims in ours.entries for dim in dims for axes in dim), (
        "nothing was sharded: the case tests nothing"
    )


MESH = 'sdy.mesh @mesh = <["a"=2, "b"=4, "c"=2]>\n'


def sharded(*dims: str, extra: str = "") -> str:
    return f"{{sdy.sharding = #sdy.sharding<@mesh, [{', '.join(dims)}]{extra}>}}"


T, U = "tensor<8x16xf32>", "tensor<16x8xf32>"

CASES = {
    "forward_and_backward": f"""
        func.func @main(%x: {T} {sharded('{"a"}', "{?}")}, %w: tensor<16x32xf32>) -> (tensor<8x32xf32> {sharded("{?}", '{"b"}')}) {{
          %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : ({T}, tensor<16x32xf32>) -> tensor<8x32xf32>
          %1 = stablehlo.tanh %0 : tensor<8x32xf32>
          return %1 : tensor<8x32xf32>
        }}""",
    "open_and_closed": f"""
        func.func @main(%x: {T} {sharded('{"a"}', "{}")}, %y: {T} {sharded('{"a", ?}', '{"b", ?}')}) -> {T} {{
          %0 = stablehlo.add %x, %y : {T}
          %1 = sdy.sharding_constraint %0 <@mesh, [{{?}}, {{}}]> : {T}
          %2 = stablehlo.add %1, %y : {T}
          return %2 : {T}
        }}""",
    "replicated": f"""
        func.func @main(%x: {T} {sharded('{"a"}', "{?}")}, %y: {T} {sharded("{?}", "{?}", extra=', replicated={"a"}')}) -> {T} {{
          %0 = stablehlo.add %x, %y : {T}
          return %0 : {T}
        }}""",
    "user_priorities": f"""
        func.func @main(%x: {T} {sharded('{"a"}p1', '{"b"}p2')}, %y: {T} {sharded('{"b"}p0', '{"a"}p3')}) -> {T} {{
          %0 = stablehlo.add %x, %y : {T}
          %1 = stablehlo.tanh %0 : {T}
          return %1 : {T}
        }}""",
    "priority_of_result": f"""
        func.func @main(%x: {T}, %w: tensor<16x32xf32> {sharded("{?}", '{"a", ?}p1')}) -> (tensor<8x32xf32> {sharded('{"a"}p0', '{"b", ?}p2')}) {{
          %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : ({T}, tensor<16x32xf32>) -> tensor<8x32xf32>
          return %0 : tensor<8x32xf32>
        }}""",
    "constant_read_and_returned": f"""
        func.func @main(%x: {T} {sharded('{"a"}', "{}")}) -> ({T}, {T} {sharded('{"a", ?}', "{?}")}) {{
          %0 = stablehlo.transpose %x, dims = [1, 0] : ({T}) -> {U}
          %1 = stablehlo.constant dense<1.0> : {T}
          %2 = stablehlo.add %x, %1 : {T}
          %3 = stablehlo.dot_general %2, %0, contracting_dims = [1] x [0] : ({T}, {U}) -> tensor<8x8xf32>
          %4 = stablehlo.dot_general %3, %1, contracting_dims = [1] x [0] : (tensor<8x8xf32>, {T}) -> {T}
          return %4, %1 : {T}, {T}
        }}""",
    "sub_axes_split": f"""
        func.func @main(%x: tensor<2x8x16xf32>, %y: {T} {sharded('{"b":(1)2}', '{"b":(2)2, "a"}')}) -> tensor<2x4x16xf32> {{
          %0 = stablehlo.reshape %y : ({T}) -> tensor<2x4x16xf32>
          %1 = stablehlo.tanh %0 : tensor<2x4x16xf32>
          return %1 : tensor<2x4x16xf32>
        }}""",
    "reshape_splits_an_axis": f"""
        func.func @main(%x: tensor<16xf32> {sharded('{"b"}')}) -> tensor<2x8xf32> {{
          %0 = stablehlo.reshape %x : (tensor<16xf32>) -> tensor<2x8xf32>
          return %0 : tensor<2x8xf32>
        }}""",
    "reshape_merges": f"""
        func.func @main(%x: tensor<2x4x8xf32> {sharded('{"a"}', '{"b"}', '{"c"}')}) -> tensor<64xf32> {{
          %0 = stablehlo.reshape %x : (tensor<2x4x8xf32>) -> tensor<64xf32>
          return %0 : tensor<64xf32>
        }}""",
    "conflict_by_size": f"""
        func.func @main(%x: {T} {sharded('{"a"}', "{?}")}, %w: tensor<16x1024xf32> {sharded("{?}", '{"a"}')}) -> tensor<8x1024xf32> {{
          %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : ({T}, tensor<16x1024xf32>) -> tensor<8x1024xf32>
          return %0 : tensor<8x1024xf32>
        }}""",
    "sharding_group": f"""
        func.func @main(%x: {T} {sharded('{"a"}', "{?}")}, %y: {T}, %z: {T}) -> {T} {{
          %0 = stablehlo.tanh %x : {T}
          %1 = stablehlo.negate %y : {T}
          sdy.sharding_group %0 group_id = 0 : {T}
          sdy.sharding_group %1 group_id = 0 : {T}
          sdy.sharding_group %1 group_id = 1 : {T}
          sdy.sharding_group %z group_id = 1 : {T}
          %2 = stablehlo.dot_general %0, %1, contracting_dims = [1] x [1] : ({T}, {T}) -> tensor<8x8xf32>
          %3 = stablehlo.sqrt %1 : {T}
          return %3 : {T}
        }}""",
    "sharding_group_of_a_constant_read_twice": f"""
        func.func @main(%x: {T} {sharded('{"b"}', "{?}")}, %n: tensor<i32>) -> ({T} {sharded('{"b":(2)2}', "{?}")}) {{
          %0 = "stablehlo.case"(%n) ({{
            %6 = stablehlo.tanh %x : {T}
            stablehlo.return %6 : {T}
          }}, {{
            %6 = stablehlo.negate %x : {T}
            stablehlo.return %6 : {T}
          }}) : (tensor<i32>) -> {T}
          %i = stablehlo.iota dim = 0 : {T}
          %j = stablehlo.iota dim = 1 : {T}
          %1 = stablehlo.multiply %0, %i : {T}
          sdy.sharding_group %1 group_id = 1 : {T}
          sdy.sharding_group %j group_id = 1 : {T}
          %2 = stablehlo.compare LT, %i, %j : ({T}, {T}) -> tensor<8x16xi1>
          %3 = stablehlo.select %2, %i, %j : tensor<8x16xi1>, {T}
          return %3 : {T}
        }}""",
    "sharding_group_of_a_constant_in_case_and_while": f"""
        func.func @main(%x: {T} {sharded('{"a"}', '{"c"}')}, %n: tensor<i32>) -> ({T} {sharded("{}", '{"a", ?}')}, {T}, {T}) {{
          %c = stablehlo.constant dense<2.0> : {T}
          %0:2 = "stablehlo.case"(%n) ({{
            stablehlo.return %c, %x : {T}, {T}
          }}, {{
            stablehlo.return %x, %c : {T}, {T}
          }}) : (tensor<i32>) -> ({T}, {T})
          %i = stablehlo.iota dim = 0 : {T}
          sdy.sharding_group %c group_id = 1 : {T}
          %1 = stablehlo.multiply %c, %i : {T}
          %2:2 = stablehlo.while(%it = %n, %y = %i) : tensor<i32>, {T} cond {{
            %p = stablehlo.compare LT, %it, %n : (tensor<i32>, tensor<i32>) -> tensor<i1>
            stablehlo.return %p : tensor<i1>
          }} do {{
            %3 = stablehlo.add %y, %1 : {T}
            stablehlo.return %it, %3 : tensor<i32>, {T}
          }}
          return %2#1, %i, %0#1 : {T}, {T}, {T}
        }}""",
    "sharding_group_that_disagrees": f"""
        func.func @main(%x: {T} {sharded('{"a"}', "{?}p1")}, %y: {T} {sharded('{"b", ?}', "{}")}, %n: tensor<i32>) -> ({T}, {T}, {T}) {{
          sdy.sharding_group %x group_id = 1 : {T}
          sdy.sharding_group %y group_id = 1 : {T}
          %0:2 = stablehlo.while(%it = %n, %q = %x) : tensor<i32>, {T} cond {{
            %p = stablehlo.compare LT, %it, %n : (tensor<i32>, tensor<i32>) -> tensor<i1>
            stablehlo.return %p : tensor<i1>
          }} do {{
            sdy.sharding_group %q group_id = 1 : {T}
            %1 = stablehlo.add %q, %y : {T}
            stablehlo.return %it, %1 : tensor<i32>, {T}
          }}
          %2 = stablehlo.tanh %x : {T}
          %3 = stablehlo.negate %2 : {T}
          sdy.sharding_group %2 group_id = 1 : {T}
          return %3, %2, %0#1 : {T}, {T}, {T}
        }}""",
    "sharding_group_with_an_open_member": f"""
        func.func @main(%x: {T} {sharded("{?}", "{?}p3")}, %y: {T}) -> ({T}, {T}) {{
          %0 = sdy.sharding_constraint %y <@mesh, [{{"a", ?}}, {{}}]> : {T}
          sdy.sharding_group %x group_id = 1 : {T}
          sdy.sharding_group %0 group_id = 1 : {T}
          %1 = stablehlo.tanh %x : {T}
          return %0, %1 : {T}, {T}
        }}""",
    "sharding_group_with_sharding": f"""
        func.func @main(%x: {T}, %y: {T}) -> ({T}, {T}) {{
          %0 = stablehlo.tanh %x : {T}
          %1 = sdy.sharding_constraint %0 <@mesh, [{{"a"}}, {{"b", ?}}]> : {T}
          %2 = stablehlo.negate %y : {T}
          sdy.sharding_group %1 group_id = 0 : {T}
          sdy.sharding_group %2 group_id = 0 : {T}
          return %1, %2 : {T}, {T}
        }}""",
    **{
        f"barrier_{direction.lower()}": f"""
        func.func @main(%x: {T} {sharded('{"a"}', "{?}")}) -> ({T} {sharded("{?}", '{"b"}')}) {{
          %0 = stablehlo.tanh %x : {T}
          %1 = sdy.propagation_barrier %0 allowed_direction={direction} : {T}
          %2 = stablehlo.negate %1 : {T}
          return %2 : {T}
        }}"""
        for direction in ("NONE", "FORWARD", "BACKWARD")
    },
    "case": f"""
        func.func @main(%i: tensor<i32>, %x: {T} {sharded('{"a"}', "{?}")}, %y: {T} {sharded("{?}", '{"b"}')}) -> {T} {{
          %0 = "stablehlo.case"(%i) ({{
            %1 = stablehlo.tanh %x : {T}
            stablehlo.return %1 : {T}
          }}, {{
            %1 = stablehlo.negate %y : {T}
            stablehlo.return %1 : {T}
          }}) : (tensor<i32>) -> {T}
          %2 = stablehlo.sqrt %0 : {T}
          return %2 : {T}
        }}""",
    "while_carries": f"""
        func.func @main(%n: tensor<i32>, %x: {T}, %w: tensor<16x16xf32> {sharded("{?}", '{"b"}')}) -> {T} {{
          %0:3 = stablehlo.while(%i = %n, %c = %x, %v = %w) : tensor<i32>, {T}, tensor<16x16xf32>
          cond {{
            %p = stablehlo.compare LT, %i, %n : (tensor<i32>, tensor<i32>) -> tensor<i1>
            stablehlo.return %p : tensor<i1>
          }} do {{
            %1 = stablehlo.dot_general %c, %v, contracting_dims = [1] x [0] : ({T}, tensor<16x16xf32>) -> {T}
            %2 = stablehlo.tanh %1 : {T}
            stablehlo.return %i, %2, %v : tensor<i32>, {T}, tensor<16x16xf32>
          }}
          return %0#1 : {T}
        }}""",
    "constraint_on_loop_result": f"""
        func.func @main(%n: tensor<i32>, %x: {T}) -> ({T}, {T}) {{
          %0:2 = stablehlo.while(%i = %n, %c = %x) : tensor<i32>, {T}
          cond {{
            %p = stablehlo.compare LT, %i, %n : (tensor<i32>, tensor<i32>) -> tensor<i1>
            stablehlo.return %p : tensor<i1>
          }} do {{
            %1 = sdy.sharding_constraint %c <@mesh, [{{"b"}}, {{}}]> : {T}
            %2 = stablehlo.add %1, %c : {T}
            stablehlo.return %i, %2 : tensor<i32>, {T}
          }}
          %3 = stablehlo.tanh %0#1 : {T}
          %4 = sdy.sharding_constraint %0#1 <@mesh, [{{}}, {{"a"}}]> : {T}
          %5 = stablehlo.negate %0#1 : {T}
          return %3, %5 : {T}, {T}
        }}""",
    "manual_computation": f"""
        func.func @main(%x: {T}, %w: {U} {sharded("{?}", '{"b"}')}) -> tensor<8x8xf32> {{
          %0 = sdy.manual_computation(%x, %w) in_shardings=[<@mesh, [{{"a"}}, {{?}}]>, <@mesh, [{{?}}, {{?}}], replicated={{"a"}}>] out_shardings=[<@mesh, [{{"a", ?}}, {{?}}]>] manual_axes={{"a"}} (%y: tensor<4x16xf32>, %v: {U}) {{
            %1 = stablehlo.dot_general %y, %v, contracting_dims = [1] x [0] : (tensor<4x16xf32>, {U}) -> tensor<4x8xf32>
            sdy.return %1 : tensor<4x8xf32>
          }} : ({T}, {U}) -> tensor<8x8xf32>
          %2 = stablehlo.tanh %0 : tensor<8x8xf32>
          return %2 : tensor<8x8xf32>
        }}""",
    "manual_axes_that_a_border_leaves_out": f"""
        func.func @main(%x: {T} {sharded('{"b"}', "{?}")}, %z: {T} {sharded("{?}", '{"c"}')}) -> ({T}, {T}) {{
          %y = stablehlo.tanh %x : {T}
          %0:2 = sdy.manual_computation(%y, %z) in_shardings=[<@mesh, [{{?}}, {{?}}]>, <@mesh, [{{?}}, {{"b", ?}}], replicated={{"a"}}>] out_shardings=[<@mesh, [{{?}}, {{?}}]>, <@mesh, [{{?}}, {{"b", ?}}]>] manual_axes={{"b"}} (%u: {T}, %v: tensor<8x4xf32>) {{
            %1 = "stablehlo.all_gather"(%v) <{{all_gather_dim = 1 : i64, channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>, replica_groups = dense<[[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15]]> : tensor<4x4xi64>, use_global_device_ids}}> : (tensor<8x4xf32>) -> {T}
            %2 = stablehlo.add %u, %1 : {T}
            sdy.return %2, %v : {T}, tensor<8x4xf32>
          }} : ({T}, {T}) -> ({T}, {T})
          %3 = stablehlo.add %0#0, %0#1 : {T}
          %4 = stablehlo.add %0#0, %x : {T}
          return %3, %4 : {T}, {T}
        }}""",
    "named_computation": f"""
        func.func @main(%x: {T} {sharded('{"a"}', "{?}")}, %y: {T}) -> {T} {{
          %0 = sdy.named_computation<"f">(%x, %y) (%u: {T}, %v: {T}) {{
            %1 = stablehlo.add %u, %v : {T}
            sdy.return %1 : {T}
          }} : ({T}, {T}) -> {T}
          %2 = stablehlo.tanh %0 : {T}
          return %2 : {T}
        }}""",
    "custom_rule": f"""
        func.func @main(%x: {T} {sharded('{"a"}', '{"b"}')}) -> tensor<16x8xf32> {{
          %0 = stablehlo.custom_call @mine(%x) {{sdy.sharding_rule = #sdy.op_sharding_rule<([i, j])->([j, i]) {{i=8, j=16}}, custom>}} : ({T}) -> tensor<16x8xf32>
          %1 = stablehlo.tanh %0 : tensor<16x8xf32>
          return %1 : tensor<16x8xf32>
        }}""",
    "shared_constant": f"""
        func.func @main(%x: {T} {sharded('{"a"}', "{?}")}, %y: {T} {sharded("{?}", '{"b"}')}) -> ({T}, {T}) {{
          %c = stablehlo.constant dense<1.0> : {T}
          %i = stablehlo.iota dim = 0 : {T}
          %k = stablehlo.multiply %c, %i : {T}
          %0 = stablehlo.add %x, %k : {T}
          %1 = stablehlo.multiply %y, %k : {T}
          return %0, %1 : {T}, {T}
        }}""",
    "chain_of_constraints": f"""
        func.func @main(%x: {T}) -> ({T}, {T}) {{
          %0 = stablehlo.tanh %x : {T}
          %1 = sdy.sharding_constraint %0 <@mesh, [{{"a"}}, {{}}]> : {T}
          %2 = sdy.sharding_constraint %1 <@mesh, [{{}}, {{"b"}}]> : {T}
          %3 = stablehlo.negate %0 : {T}
          %4 = stablehlo.add %2, %3 : {T}
          return %4, %0 : {T}, {T}
        }}""",
    "constraints_that_differ": f"""
        func.func @main(%x: {T}) -> ({T}, {T}) {{
          %0 = stablehlo.tanh %x : {T}
          %1 = sdy.sharding_constraint %0 <@mesh, [{{"a"}}, {{}}]> : {T}
          %2 = sdy.sharding_constraint %0 <@mesh, [{{}}, {{"b"}}]> : {T}
          return %1, %2 : {T}, {T}
        }}""",
    "not_divisible": """
        func.func @main(%x: tensor<6x10xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"b"}, {?}]>}) -> tensor<60xf32> {
          %0 = stablehlo.tanh %x : tensor<6x10xf32>
          %1 = stablehlo.reshape %0 : (tensor<6x10xf32>) -> tensor<60xf32>
          return %1 : tensor<60xf32>
        }""",
    "dynamic_slices": f"""
        func.func @main(%x: {T} {sharded('{"a"}', '{"b"}')}, %i: tensor<i32>, %u: tensor<8x4xf32>) -> ({T}, tensor<8x4xf32>) {{
          %0 = stablehlo.dynamic_slice %x, %i, %i, sizes = [8, 4] : ({T}, tensor<i32>, tensor<i32>) -> tensor<8x4xf32>
          %1 = stablehlo.dynamic_update_slice %x, %u, %i, %i : ({T}, tensor<8x4xf32>, tensor<i32>, tensor<i32>) -> {T}
          return %1, %0 : {T}, tensor<8x4xf32>
        }}""",
}


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    check(MESH + CASES[name])


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(seed=st.integers(0, 1 << 30), steps=st.integers(1, 25))
def test_random_programs(seed: int, steps: int) -> None:
    lines, _ = compare(random_program(seed, steps))
    assert not lines, "\n".join(lines)
