"""Prices of partitioned modules, worked by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autopar.dialects.shard import user_grid
from autopar.lowering.parse import parse_module
from autopar.passes.cost.cluster import Cluster, Device, Link
from autopar.passes.cost.prices import CostModel, Objective
from autopar.passes.cost.program import Price, price_of

CLUSTER = Cluster(
    "test",
    Device("d", {"f32": 1e12, "bf16": 4e12}, 10**9, 1e11),
    (Link(4, 1e-5, 1e-10), Link(8, 1e-4, 1e-8)),
)
N = 16 * 16 * 4  # bytes of a matrix
DOT = "contracting_dims = [1] x [0] : (tensor<16x16xf32>, tensor<16x16xf32>) -> tensor<16x16xf32>"


def price(
    body: str,
    objective: Objective = "time",
    results: str = "tensor<16x16xf32>",
    cluster: Cluster = CLUSTER,
) -> Price:
    module: Any = parse_module(
        f"""shard.grid @g(shape = 2x4) {{axis_names = ["x", "y"]}}
        func.func @main(%a: tensor<16x16xf32>) -> ({results}) {{ {body} }}"""
    )
    return price_of(module, CostModel.of(cluster, user_grid(module), objective=objective))


def test_dots_pay_the_roofline_and_others_their_traffic() -> None:
    found = price(f"""
        %0 = stablehlo.negate %a : tensor<16x16xf32>
        %1 = stablehlo.dot_general %0, %a, {DOT}
        %2 = stablehlo.tanh %1 : tensor<16x16xf32>
        %3 = stablehlo.add %2, %a : tensor<16x16xf32>
        return %3 : tensor<16x16xf32>""")
    assert found.compute == pytest.approx(max(2 * 16**3 / 1e12, 3 * N / 1e11))
    assert found.memory == pytest.approx((2 * N + 3 * N) / 1e11)
    assert found.communication == {} and found.total == found.compute + found.memory


def test_elements_pay_the_roofline_where_a_cluster_states_their_rates() -> None:
    """Of a fusion, with all that is computed in it again; a root takes four simple operations, a
    reduction one for each element that it reads."""
    device = replace(CLUSTER.device, elementwise=1e9, transcendental=1e8)
    body = """
        %0 = stablehlo.tanh %a : tensor<16x16xf32>
        %1 = stablehlo.sqrt %0 : tensor<16x16xf32>
        %2 = stablehlo.add %1, %1 : tensor<16x16xf32>
        %3 = stablehlo.constant dense<0.0> : tensor<f32>
        %4 = stablehlo.reduce(%2 init: %3) applies stablehlo.add across dimensions = [1]
            : (tensor<16x16xf32>, tensor<f32>) -> tensor<16xf32>
        return %4 : tensor<16xf32>"""
    found = price(body, results="tensor<16xf32>", cluster=replace(CLUSTER, device=device))
    assert found.compute == pytest.approx(256 * ((4 + 1 + 1) / 1e9 + 1 / 1e8))
    assert found.memory == 0.0
    assert price(body, results="tensor<16xf32>").memory == pytest.approx((N + 16 * 4) / 1e11)
    slow = replace(CLUSTER, device=replace(device, memory_bandwidth=1e6))
    read = price(body, results="tensor<16xf32>", cluster=slow).memory
    assert read == pytest.approx((N + 16 * 4) / 1e6)


def test_collectives_by_kind_and_axes() -> None:
    body = """
        %0 = shard.all_reduce %a on @g grid_axes = [1] : tensor<16x16xf32> -> tensor<16x16xf32>
        %1 = shard.all_reduce %0 on @g grid_axes = [0, 1] : tensor<16x16xf32> -> tensor<16x16xf32>
        %2 = shard.all_slice %1 on @g grid_axes = [0] slice_axis = 0
            : tensor<16x16xf32> -> tensor<8x16xf32>
        %3 = shard.all_gather %2 on @g grid_axes = [0] gather_axis = 0
            : tensor<8x16xf32> -> tensor<16x16xf32>
        return %3 : tensor<16x16xf32>"""
    found = price(body)
    assert found.communication == {
        ("all_reduce", ("y",)): pytest.approx(1e-5 + 2 * 3 / 4 * N * 1e-10),
        ("all_reduce", ("x", "y")): pytest.approx(
            1e-4 + 1e-5 + 2 * 3 / 4 * N * 1e-10 + 2 * 1 / 2 * N / 4 * 1e-8
        ),
        ("all_gather", ("x",)): pytest.approx(1e-4 + N / 2 * 1e-8),
    }
    only = price(body, "communication")
    assert (only.compute, only.memory) == (0, 0)
    assert only.communication == found.communication


def test_a_permutation_pays_the_axes_that_it_crosses() -> None:
    def permuted(pairs: str) -> dict[Any, float]:
        return dict(
            price(f"""
                %0 = "shard.permute"(%a) <{{grid = @g, grid_axes = array<i16: 0, 1>,
                    pairs = array<i64: {pairs}>}}> : (tensor<16x16xf32>) -> tensor<16x16xf32>
                return %0 : tensor<16x16xf32>""").communication
        )

    inside, across = "0, 1, 1, 0, 4, 5, 5, 4", "0, 4, 4, 0"
    assert permuted(inside) == {("permute", ("y",)): pytest.approx(1e-5 + N * 1e-10)}
    assert permuted(across) == {("permute", ("x",)): pytest.approx(1e-4 + N * 1e-8)}


def test_combined_collectives_are_one_message() -> None:
    body = """
        %0 = shard.all_gather %a on @g grid_axes = [1] gather_axis = 0 {autopar.combine = 0 : i64}
            : tensor<16x16xf32> -> tensor<64x16xf32>
        %1 = shard.all_gather %a on @g grid_axes = [1] gather_axis = 1 {autopar.combine = 0 : i64}
            : tensor<16x16xf32> -> tensor<16x64xf32>
        return %0, %1 : tensor<64x16xf32>, tensor<16x64xf32>"""
    results = "tensor<64x16xf32>, tensor<16x64xf32>"
    found = price(body, "communication", results)
    assert found.total == pytest.approx(1e-5 + 2 * 3 * N * 1e-10)
    packed = price(body, results=results)  # out of one buffer, each of the full ones
    apart = price(body.replace(" {autopar.combine = 0 : i64}", ""), results=results)
    assert packed.memory == pytest.approx(2 * 2 * 4 * N / 1e11) and apart.memory == 0.0


@pytest.mark.parametrize(("rows", "messages"), [(1 << 10, 1), (3 << 16, 2), (1 << 19, 3)])
def test_all_reduces_that_xla_makes_one_pay_alpha_for_each_30_mib(rows: int, messages: int) -> None:
    """Three, of 64 KiB, of 12 MiB and of 32 MiB."""
    kind = f"tensor<{rows}x16xf32>"
    reduced = (
        f"%{i} = shard.all_reduce %{arg} on @g grid_axes = [1] : {kind} -> {kind}"
        for i, arg in enumerate("abc")
    )
    module: Any = parse_module(
        f"""shard.grid @g(shape = 2x4) {{axis_names = ["x", "y"]}}
        func.func @main(%a: {kind}, %b: {kind}, %c: {kind}) -> ({kind}, {kind}, {kind}) {{
            {" ".join(reduced)}
            return %0, %1, %2 : {kind}, {kind}, {kind}
        }}"""
    )
    found = price_of(module, CostModel.of(CLUSTER, user_grid(module), objective="communication"))
    assert found.total == pytest.approx(messages * 1e-5 + 3 * 2 * 3 / 4 * rows * 64 * 1e-10)


@pytest.mark.parametrize("trips", [5, 0])
def test_loops_count_by_their_trips_and_branches_by_the_dearest(trips: int) -> None:
    body = f"""
        %n = stablehlo.constant dense<{trips}> : tensor<i32>
        %z = stablehlo.constant dense<0> : tensor<i32>
        %1:2 = "stablehlo.while"(%z, %a) ({{
          ^bb0(%i: tensor<i32>, %c: tensor<16x16xf32>):
            %p = "stablehlo.compare"(%i, %n)
                <{{comparison_direction = #stablehlo<comparison_direction LT>}}>
                : (tensor<i32>, tensor<i32>) -> tensor<i1>
            "stablehlo.return"(%p) : (tensor<i1>) -> ()
        }}, {{
          ^bb0(%i: tensor<i32>, %c: tensor<16x16xf32>):
            %one = stablehlo.constant dense<1> : tensor<i32>
            %j = stablehlo.add %i, %one : tensor<i32>
            %d = stablehlo.dot_general %c, %c, {DOT}
            %e = shard.all_reduce %d on @g grid_axes = [1]
                : tensor<16x16xf32> -> tensor<16x16xf32>
            "stablehlo.return"(%j, %e) : (tensor<i32>, tensor<16x16xf32>) -> ()
        }}) : (tensor<i32>, tensor<16x16xf32>) -> (tensor<i32>, tensor<16x16xf32>)
        %2 = "stablehlo.case"(%z) ({{
            %f = stablehlo.negate %1#1 : tensor<16x16xf32>
            "stablehlo.return"(%f) : (tensor<16x16xf32>) -> ()
        }}, {{
            %f = stablehlo.dot_general %1#1, %1#1, {DOT}
            %g = stablehlo.dot_general %f, %f, {DOT}
            "stablehlo.return"(%g) : (tensor<16x16xf32>) -> ()
        }}) : (tensor<i32>) -> tensor<16x16xf32>
        return %2 : tensor<16x16xf32>"""
    found = price(body)
    once = max(2 * 16**3 / 1e12, 2 * N / 1e11)
    assert found.compute == pytest.approx(trips * once + 2 * once)
    assert found.memory == pytest.approx(trips * 8 / 1e11)  # the counter
    assert found.communication_total == pytest.approx(trips * (1e-5 + 2 * 3 / 4 * N * 1e-10))


def test_prices_add_up() -> None:
    a, b = Price(1, 2, {("x", ("i",)): 3}), Price(10, 20, {("x", ("i",)): 30, ("y", ()): 5})
    assert a + b == Price(11, 22, {("x", ("i",)): 33, ("y", ()): 5})
    assert (a * 4).total == 24
