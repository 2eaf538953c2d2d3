"""Which values are kept, and what is read, on blocks worked by hand."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.func import FuncOp

from autopar.dialects.stablehlo import OptimizationBarrierOp
from autopar.lowering.parse import parse_module
from autopar.passes.cost.fusion import Fusion


def fusion_of(body: str, arguments: str) -> Fusion:
    module = parse_module(f"func.func @main({arguments}) -> (tensor<8x8xf32>) {{ {body} }}")
    func = next(op for op in module.ops if isinstance(op, FuncOp))
    return Fusion(func.body.block)


def fusion(body: str, arguments: str = "%a: tensor<8x8xf32>") -> tuple[list[str], list[float]]:
    """The names of the ops whose results are kept, and the bytes that each of them reads."""
    found = fusion_of(body, arguments)
    kept = [op for op in found.ops if found.written(op)]
    return [op.name.split(".")[1] for op in kept], [sum(found.reads(op).values()) for op in kept]


SIZE = 8 * 8 * 4.0


def test_a_chain_is_one_op() -> None:
    body = """
        %0 = stablehlo.tanh %a : tensor<8x8xf32>
        %1 = stablehlo.multiply %0, %a : tensor<8x8xf32>
        %2 = stablehlo.negate %1 : tensor<8x8xf32>
        return %2 : tensor<8x8xf32>"""
    assert fusion(body) == (["negate"], [SIZE])


def test_dots_read_and_write() -> None:
    body = """
        %0 = stablehlo.negate %a : tensor<8x8xf32>
        %1 = stablehlo.dot_general %0, %a, contracting_dims = [1] x [0]
            : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
        %2 = stablehlo.transpose %1, dims = [1, 0] : (tensor<8x8xf32>) -> tensor<8x8xf32>
        %3 = stablehlo.dot_general %2, %2, contracting_dims = [1] x [0]
            : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
        return %3 : tensor<8x8xf32>"""
    kept = ["negate", "dot_general", "dot_general"]
    assert fusion(body) == (kept, [SIZE, 2 * SIZE, SIZE])


def test_dear_values_with_two_places_are_kept_and_cheap_ones_computed_again() -> None:
    def two_places(op: str) -> list[str]:
        body = f"""
            %0 = stablehlo.{op} %a : tensor<8x8xf32>
            %1 = stablehlo.negate %0 : tensor<8x8xf32>
            %2 = stablehlo.dot_general %1, %a, contracting_dims = [1] x [0]
                : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
            %3 = stablehlo.multiply %0, %2 : tensor<8x8xf32>
            return %3 : tensor<8x8xf32>"""
        return fusion(body)[0]

    assert two_places("tanh") == ["tanh", "negate", "dot_general", "multiply"]
    assert two_places("abs") == ["negate", "dot_general", "multiply"]


def test_what_reads_more_than_it_writes_is_not_computed_again() -> None:
    body = """
        %0 = stablehlo.add %a, %b : tensor<8x8xf32>
        %1 = stablehlo.negate %0 : tensor<8x8xf32>
        %2 = stablehlo.dot_general %1, %a, contracting_dims = [1] x [0]
            : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
        %3 = stablehlo.multiply %0, %2 : tensor<8x8xf32>
        return %3 : tensor<8x8xf32>"""
    names, _ = fusion(body, "%a: tensor<8x8xf32>, %b: tensor<8x8xf32>")
    assert names == ["add", "negate", "dot_general", "multiply"]


def _two_products(line: str) -> list[str]:
    """The kept values, where two products read the negative and the absolute of what a line makes
    of the sum of %a and %b."""
    dot = "contracting_dims = [1] x [0] : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>"
    body = f"""
        %0 = stablehlo.add %a, %b : tensor<8x8xf32>
        {line}
        %2 = stablehlo.negate %1 : tensor<8x8xf32>
        %3 = stablehlo.abs %1 : tensor<8x8xf32>
        %4 = stablehlo.dot_general %2, %3, {dot}
        %5 = stablehlo.dot_general %4, %0, {dot}
        return %5 : tensor<8x8xf32>"""
    return fusion(body, "%a: tensor<8x8xf32>, %b: tensor<8x8xf32>")[0]


def test_what_reads_more_is_computed_again_where_all_its_readers_compute_it() -> None:
    products = ["negate", "abs", "dot_general", "dot_general"]
    once = "%1 = stablehlo.sqrt %0 : tensor<8x8xf32>"
    assert _two_products(once) == ["add", "sqrt", *products]  # %0 and %1 are needed themselves
    again = "%1 = stablehlo.subtract %0, %0 : tensor<8x8xf32>"
    assert _two_products(again) == ["add", *products]  # reads no more than one operand
    body = """
        %0 = stablehlo.add %a, %b : tensor<8x8xf32>
        %1 = stablehlo.negate %0 : tensor<8x8xf32>
        %2 = stablehlo.abs %0 : tensor<8x8xf32>
        %3 = stablehlo.dot_general %1, %2, contracting_dims = [1] x [0]
            : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
        return %3 : tensor<8x8xf32>"""
    names, _ = fusion(body, "%a: tensor<8x8xf32>, %b: tensor<8x8xf32>")
    assert names == ["negate", "abs", "dot_general"]


def test_two_uses_in_one_place_are_no_reason_to_keep() -> None:
    body = """
        %0 = stablehlo.add %a, %b : tensor<8x8xf32>
        %1 = stablehlo.exponential %0 : tensor<8x8xf32>
        %2 = stablehlo.multiply %0, %1 : tensor<8x8xf32>
        %3 = stablehlo.add %2, %1 : tensor<8x8xf32>
        return %3 : tensor<8x8xf32>"""
    arguments = "%a: tensor<8x8xf32>, %b: tensor<8x8xf32>"
    assert fusion(body, arguments) == (["add"], [2 * SIZE])


def test_dear_rows_are_kept_before_they_are_repeated() -> None:
    body = """
        %0 = stablehlo.rsqrt %a : tensor<8xf32>
        %1 = stablehlo.broadcast_in_dim %0, dims = [0] : (tensor<8xf32>) -> tensor<8x8xf32>
        return %1 : tensor<8x8xf32>"""
    assert fusion(body, "%a: tensor<8xf32>") == (["rsqrt", "broadcast_in_dim"], [32.0, 32.0])


def test_a_reduction_computes_what_it_reads() -> None:
    body = """
        %z = stablehlo.constant dense<0.0> : tensor<f32>
        %0 = stablehlo.multiply %a, %a : tensor<8x8xf32>
        %1 = stablehlo.reduce(%0 init: %z) applies stablehlo.add across dimensions = [1]
            : (tensor<8x8xf32>, tensor<f32>) -> tensor<8xf32>
        %2 = stablehlo.broadcast_in_dim %1, dims = [0] : (tensor<8xf32>) -> tensor<8x8xf32>
        return %2 : tensor<8x8xf32>"""
    assert fusion(body) == (["reduce", "broadcast_in_dim"], [SIZE, 32.0])


def test_what_is_cut_off_is_not_read() -> None:
    body = """
        %0 = stablehlo.negate %b : tensor<100x8xf32>
        %1 = stablehlo.slice %0 [4:12, 0:8] : (tensor<100x8xf32>) -> tensor<8x8xf32>
        return %1 : tensor<8x8xf32>"""
    assert fusion(body, "%b: tensor<100x8xf32>") == (["slice"], [SIZE])


def test_views_have_no_memory() -> None:
    body = """
        %0 = stablehlo.reshape %a : (tensor<8x8xf32>) -> tensor<64xf32>
        %1 = stablehlo.optimization_barrier %0 : tensor<64xf32>
        %2 = stablehlo.reshape %1 : (tensor<64xf32>) -> tensor<8x8xf32>
        %3 = stablehlo.dot_general %2, %2, contracting_dims = [1] x [0]
            : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
        return %3 : tensor<8x8xf32>"""
    assert fusion(body) == (["dot_general"], [SIZE])


def test_updates_in_place_read_the_update() -> None:
    body = """
        %z = stablehlo.constant dense<0> : tensor<i32>
        %0 = stablehlo.negate %a : tensor<8x8xf32>
        %1 = stablehlo.dynamic_update_slice %0, %u, %z, %z
            : (tensor<8x8xf32>, tensor<1x8xf32>, tensor<i32>, tensor<i32>) -> tensor<8x8xf32>
        return %1 : tensor<8x8xf32>"""
    names, read = fusion(body, "%a: tensor<8x8xf32>, %u: tensor<1x8xf32>")
    assert (names, read) == (["negate", "dynamic_update_slice"], [SIZE, 32.0])


def test_what_updates_begin_with_is_written() -> None:
    """Zeros that are scattered into, as gradients of gathers are; before partitioning they are
    broadcasts of a scalar, behind it constants."""
    for fill in (
        "%0 = stablehlo.constant dense<0.0> : tensor<8x8xf32>",
        "%s = stablehlo.constant dense<0.0> : tensor<f32> "
        "%0 = stablehlo.broadcast_in_dim %s, dims = [] : (tensor<f32>) -> tensor<8x8xf32>",
    ):
        body = f"""
            %z = stablehlo.constant dense<0> : tensor<i32>
            {fill}
            %1 = stablehlo.dynamic_update_slice %0, %u, %z, %z
                : (tensor<8x8xf32>, tensor<1x8xf32>, tensor<i32>, tensor<i32>) -> tensor<8x8xf32>
            return %1 : tensor<8x8xf32>"""
        found = fusion_of(body, "%u: tensor<1x8xf32>")
        written = [size for op in found.ops for size in found.writes(op).values()]
        assert sorted(written) == [32.0, SIZE]


def test_branches_read_what_they_capture() -> None:
    body = """
        %0 = stablehlo.tanh %a : tensor<8x8xf32>
        %1 = "stablehlo.case"(%i) ({
            %2 = stablehlo.negate %0 : tensor<8x8xf32>
            "stablehlo.return"(%2) : (tensor<8x8xf32>) -> ()
        }, {
            "stablehlo.return"(%a) : (tensor<8x8xf32>) -> ()
        }) : (tensor<i32>) -> tensor<8x8xf32>
        return %1 : tensor<8x8xf32>"""
    names, read = fusion(body, "%a: tensor<8x8xf32>, %i: tensor<i32>")
    assert (names, read) == (["tanh", "case"], [SIZE, 4 + 2 * SIZE])


def test_long_chains_with_many_ways_through_take_no_time() -> None:
    """2^2000 ways, 2000 deep."""
    lines = [f"%{i + 1} = stablehlo.add %{i}, %{i} : tensor<8x8xf32>" for i in range(2000)]
    body = "%0 = stablehlo.negate %a : tensor<8x8xf32>\n" + "\n".join(lines)
    names, read = fusion(f"{body}\nreturn %2000 : tensor<8x8xf32>")
    assert (names, read) == (["add"], [SIZE])


def test_narrowing_reads_the_wide_value() -> None:
    body = """
        %0 = stablehlo.convert %b : (tensor<16x8xf64>) -> tensor<16x8xf32>
        %1 = stablehlo.slice %0 [0:8, 0:8] : (tensor<16x8xf32>) -> tensor<8x8xf32>
        return %1 : tensor<8x8xf32>"""
    assert fusion(body, "%b: tensor<16x8xf64>") == (["slice"], [2 * SIZE])


def test_code_does_not_double_without_end() -> None:
    def kept(levels: int) -> list[str]:
        lines = [
            f"""%r{i} = stablehlo.reverse %{i}, dims = [1] : tensor<8x8xf32>
                %{i + 1} = stablehlo.add %{i}, %r{i} : tensor<8x8xf32>"""
            for i in range(1, levels + 1)
        ]
        body = "%1 = stablehlo.abs %a : tensor<8x8xf32>\n" + "\n".join(lines)
        return fusion(f"{body}\nreturn %{levels + 1} : tensor<8x8xf32>")[0]

    assert kept(3) == ["add"]  # 8 times the absolute
    assert kept(5) == ["add", "add"]


def test_what_branches_stands_once_in_code() -> None:
    """A pad that two cuts of a sum would each compute is kept; another one is computed inside."""

    def kept(cuts: str) -> list[str]:
        body = f"""
            %z = stablehlo.constant dense<0.0> : tensor<f32>
            %0 = stablehlo.pad %a, %z, low = [8, 0], high = [8, 0], interior = [0, 0]
                : (tensor<8x8xf32>, tensor<f32>) -> tensor<24x8xf32>
            %1 = stablehlo.add %0, %b : tensor<24x8xf32>
            {cuts}
            return %4 : tensor<8x8xf32>"""
        return fusion(body, "%a: tensor<8x8xf32>, %b: tensor<24x8xf32>")[0]

    one = "%2 = stablehlo.slice %1 [0:8, 0:8] : (tensor<24x8xf32>) -> tensor<8x8xf32>"
    two = "%3 = stablehlo.slice %1 [8:16, 0:8] : (tensor<24x8xf32>) -> tensor<8x8xf32>"
    assert kept(f"{one}\n%4 = stablehlo.negate %2 : tensor<8x8xf32>") == ["negate"]
    assert kept(f"{one}\n{two}\n%4 = stablehlo.add %2, %3 : tensor<8x8xf32>") == ["pad", "add"]
    shared = f"{one}\n%3 = stablehlo.slice %0 [8:16, 0:8] : (tensor<24x8xf32>) -> tensor<8x8xf32>"
    assert kept(f"{shared}\n%4 = stablehlo.add %2, %3 : tensor<8x8xf32>") == ["pad", "add"]


def test_a_part_of_what_is_padded_may_be_all_that_is_padded() -> None:
    body = """
        %z = stablehlo.constant dense<0.0> : tensor<f32>
        %0 = stablehlo.pad %a, %z, low = [4, 0], high = [4, 0], interior = [0, 0]
            : (tensor<8x8xf32>, tensor<f32>) -> tensor<16x8xf32>
        %1 = stablehlo.slice %0 [4:12, 0:8] : (tensor<16x8xf32>) -> tensor<8x8xf32>
        return %1 : tensor<8x8xf32>"""
    assert fusion(body) == (["slice"], [SIZE])


def _with_barrier(body: str, arguments: str, held: Sequence[str], reader: str) -> Fusion:
    """That of a block where the results of some ops are read behind a barrier, which stands in
    front of another one."""
    fusion = fusion_of(body, arguments)
    block = fusion.ops[0].parent
    named = {op.name.split(".")[1]: op for op in fusion.ops}
    values = [named[name].results[0] for name in held]
    assert block is not None and all(fusion.written(named[name]) for name in held)
    types = [value.type for value in values]
    barrier = OptimizationBarrierOp.create(operands=values, result_types=types)
    for value, behind in zip(values, barrier.results, strict=True):
        value.replace_uses_with_if(behind, lambda use: use.operation is not barrier)
    block.insert_op_before(barrier, named[reader])
    return fusion.with_barriers()


def _kept(fusion: Fusion) -> list[str]:
    return [op.name.split(".")[1] for op in fusion.ops if fusion.written(op)]


def test_behind_a_barrier_a_product_is_not_made_transposed() -> None:
    """So that its transposition is kept, which was another name before."""
    body = """
        %0 = stablehlo.dot_general %a, %a, contracting_dims = [1] x [0]
            : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
        %1 = stablehlo.transpose %0, dims = [1, 0] : (tensor<8x8xf32>) -> tensor<8x8xf32>
        return %1 : tensor<8x8xf32>"""
    arguments = "%a: tensor<8x8xf32>"
    assert fusion(body, arguments)[0] == ["dot_general"]
    found = _with_barrier(body, arguments, ["dot_general"], "transpose")
    assert _kept(found) == ["dot_general", "transpose"]


def test_what_waits_needs_all_that_it_waits_for() -> None:
    """So that a sum is not computed inside a product that waits for another reader of the sum."""
    body = """
        %0 = stablehlo.add %a, %b : tensor<8x8xf32>
        %1 = stablehlo.negate %0 : tensor<8x8xf32>
        %2 = stablehlo.dot_general %b, %b, contracting_dims = [1] x [0]
            : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
        %3 = stablehlo.multiply %0, %2 : tensor<8x8xf32>
        %4 = stablehlo.convolution(%1, %3)
            dim_numbers = [b, f]x[i, o]->[b, f],
            window = {}
            {batch_group_count = 1 : i64, feature_group_count = 1 : i64}
            : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
        return %4 : tensor<8x8xf32>"""
    arguments = "%a: tensor<8x8xf32>, %b: tensor<8x8xf32>"
    kept = ["negate", "dot_general", "multiply", "convolution"]
    assert fusion(body, arguments)[0] == kept
    found = _with_barrier(body, arguments, ["dot_general", "negate"], "multiply")
    assert _kept(found) == ["add", *kept]
