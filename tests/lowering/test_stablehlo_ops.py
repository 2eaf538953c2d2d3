"""Every StableHLO and chlo operation and attribute, judged by jaxlib."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import _chlo_ops_gen, _stablehlo_ops_gen

from autopar.dialects import make_context
from autopar.dialects.chlo import Chlo
from autopar.dialects.stablehlo import StableHLO
from autopar.dialects.text import IRParser, parse_text, print_text
from autopar.lowering.exporter import export_module
from autopar.lowering.importer import import_module
from autopar.lowering.mlir_context import make_mlir_context
from autopar.lowering.parse import parse_native


def upstream_ops(generated: Any) -> dict[str, set[str]]:
    """Inherent attributes by operation name, from jaxlib's generated classes."""
    source = inspect.getsource(generated)
    found: dict[str, set[str]] = {}
    for part in source.split("@_ods_cext.register_operation")[1:]:
        name = re.search(r'OPERATION_NAME = "([^"]+)"', part)
        assert name
        found[name[1]] = set(re.findall(r'attributes\["(\w+)"\]', part))
    return found


@pytest.mark.parametrize(
    ("dialect", "generated"), [(StableHLO, _stablehlo_ops_gen), (Chlo, _chlo_ops_gen)]
)
def test_every_upstream_operation_is_declared(dialect: Any, generated: Any) -> None:
    ours = {op.name: set(op.get_irdl_definition().properties) for op in dialect.operations}
    for name, attributes in upstream_ops(generated).items():  # of this jaxlib; ours: of all
        assert name in ours and attributes <= ours[name], name
    for op in dialect.operations:
        assert op.__doc__ or op.name.startswith("chlo.broadcast_"), op.name


ATTRIBUTES = [
    "#stablehlo.dot<lhs_batching_dimensions = [0], rhs_batching_dimensions = [0], "
    "lhs_contracting_dimensions = [2], rhs_contracting_dimensions = [1]>",
    "#stablehlo.dot<>",
    "#stablehlo.gather<offset_dims = [2], collapsed_slice_dims = [0], operand_batching_dims = [1],"
    " start_indices_batching_dims = [1], start_index_map = [0], index_vector_dim = 2>",
    "#stablehlo.scatter<update_window_dims = [1], inserted_window_dims = [0], "
    "input_batching_dims = [2], scatter_indices_batching_dims = [1], "
    "scatter_dims_to_operand_dims = [0], index_vector_dim = 1>",
    "#stablehlo.conv<[b, f, 1, 0]x[o, i, 1, 0]->[0, b, f, 1]>",
    "#stablehlo.channel_handle<handle = 3, type = 1>",
    "#stablehlo.output_operand_alias<output_tuple_indices = [0], operand_index = 0, "
    "operand_tuple_indices = []>",
    "#stablehlo.dot_algorithm<lhs_precision_type = tf32, rhs_precision_type = tf32, "
    "accumulation_type = f32, lhs_component_count = 1, rhs_component_count = 1, "
    "num_primitive_operations = 1, allow_imprecise_accumulation = false>",
    "#stablehlo.bounds<?, 4>",
    "#stablehlo.result_accuracy<atol = 1.000000e-05, ulps = 2, "
    "mode = #stablehlo.result_accuracy_mode<TOLERANCE>>",
    "#stablehlo<comparison_direction LT>",
    "#stablehlo<comparison_type TOTALORDER>",
    "#stablehlo<precision HIGHEST>",
    "#stablehlo<fft_type IRFFT>",
    "#stablehlo<transpose ADJOINT>",
    "#stablehlo<rng_distribution NORMAL>",
    "#stablehlo<rng_algorithm PHILOX>",
    "#stablehlo.mesh<axes=[<name = \"foo\", size = 2>], device_ids=dense<[1, 0]> : tensor<2xi64>>",
    "#chlo<comparison_direction GE>",
    "#chlo<comparison_type SIGNED>",
    "#chlo<precision HIGH>",
    "#chlo.ragged_dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [1], "
    "lhs_ragged_dimensions = [0], rhs_group_dimensions = [0]>",
]  # fmt: skip


@pytest.mark.parametrize("text", ATTRIBUTES)
def test_attributes_are_accepted_back(text: str) -> None:
    context, ours = make_mlir_context(), make_context()
    parsed = IRParser(ours, text).parse_attribute()
    assert ir.Attribute.parse(str(parsed), context) == ir.Attribute.parse(text, context)
    assert IRParser(ours, str(parsed)).parse_attribute() == parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#stablehlo.dot<lhs_contracting = [0]>", "unknown field 'lhs_contracting'"),
        ("#stablehlo.channel_handle<handle = 1>", "field 'type' of .* is missing"),
        ("#stablehlo<precision BEST>", "'BEST' is none of DEFAULT, HIGH, HIGHEST"),
        ("#stablehlo.conv<[b, f, 1]x[o, i, 0]->[b, f, 0]>", "expected 'b', 'f' and 0 to 0"),
    ],
)
def test_wrong_attributes(text: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        IRParser(make_context(), text).parse_attribute()


PROGRAM = """
func.func @main(%a: tensor<2x2xf32>, %i: tensor<3x1xi32>, %k: tensor<2x2x4x4xf32>,
    %p: tensor<2x2xi1>, %n: tensor<i32>, %t: !stablehlo.token, %u: tensor<2xui64>,
    %b: tensor<?x?xf32, #stablehlo.bounds<?, 4>>, %s: tensor<2xi64>) {
  %c = stablehlo.constant dense<0.0> : tensor<f32>
  %g = "stablehlo.gather"(%a, %i) <{dimension_numbers = #stablehlo.gather<offset_dims = [1],
    collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>,
    slice_sizes = array<i64: 1, 2>}> : (tensor<2x2xf32>, tensor<3x1xi32>) -> tensor<3x2xf32>
  %sc = "stablehlo.scatter"(%a, %i, %g) <{indices_are_sorted = true, unique_indices = false,
    scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1],
    inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>}> ({
  ^bb0(%x: tensor<f32>, %y: tensor<f32>):
    stablehlo.return %y : tensor<f32>
  }) : (tensor<2x2xf32>, tensor<3x1xi32>, tensor<3x2xf32>) -> tensor<2x2xf32>
  %cv = stablehlo.convolution(%k, %k) dim_numbers = [b, f, 0, 1]x[o, i, 0, 1]->[b, f, 0, 1],
    window = {stride = [1, 1], pad = [[1, 1], [1, 1]], rhs_dilate = [1, 1]}
    {batch_group_count = 1 : i64, feature_group_count = 1 : i64}
    : (tensor<2x2x4x4xf32>, tensor<2x2x4x4xf32>) -> tensor<2x2x3x3xf32>
  %ar = "stablehlo.all_reduce"(%a) <{channel_handle = #stablehlo.channel_handle<handle = 1,
    type = 1>, replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>, use_global_device_ids}> ({
  ^bb0(%x: tensor<f32>, %y: tensor<f32>):
    %z = stablehlo.add %x, %y : tensor<f32>
    stablehlo.return %z : tensor<f32>
  }) : (tensor<2x2xf32>) -> tensor<2x2xf32>
  %ag = "stablehlo.all_gather"(%a) <{all_gather_dim = 0 : i64,
    replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>}> : (tensor<2x2xf32>) -> tensor<4x2xf32>
  %at = "stablehlo.all_to_all"(%a) <{split_dimension = 0 : i64, concat_dimension = 1 : i64,
    split_count = 2 : i64, replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>}>
    : (tensor<2x2xf32>) -> tensor<1x4xf32>
  %cp = "stablehlo.collective_permute"(%a) <{source_target_pairs = dense<[[0, 1], [1, 0]]>
    : tensor<2x2xi64>}> : (tensor<2x2xf32>) -> tensor<2x2xf32>
  %r = stablehlo.reduce(%a init: %c) applies stablehlo.add across dimensions = [0]
    : (tensor<2x2xf32>, tensor<f32>) -> tensor<2xf32>
  %w:2 = stablehlo.while(%w0 = %n, %w1 = %a) : tensor<i32>, tensor<2x2xf32>
  cond {
    %l = stablehlo.compare LT, %w0, %n, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %l : tensor<i1>
  } do {
    %m = stablehlo.multiply %w1, %w1 : tensor<2x2xf32>
    stablehlo.return %w0, %m : tensor<i32>, tensor<2x2xf32>
  }
  %cs = "stablehlo.case"(%n) ({
    stablehlo.return %a : tensor<2x2xf32>
  }, {
    stablehlo.return %ar : tensor<2x2xf32>
  }) : (tensor<i32>) -> tensor<2x2xf32>
  %so:2 = "stablehlo.sort"(%a, %a) <{dimension = 1 : i64, is_stable = true}> ({
  ^bb0(%x: tensor<f32>, %y: tensor<f32>, %x1: tensor<f32>, %y1: tensor<f32>):
    %l = stablehlo.compare LT, %x, %y, TOTALORDER : (tensor<f32>, tensor<f32>) -> tensor<i1>
    stablehlo.return %l : tensor<i1>
  }) : (tensor<2x2xf32>, tensor<2x2xf32>) -> (tensor<2x2xf32>, tensor<2x2xf32>)
  %pd = stablehlo.pad %a, %c, low = [1, 0], high = [0, -1], interior = [2, 0]
    : (tensor<2x2xf32>, tensor<f32>) -> tensor<5x1xf32>
  %rw = "stablehlo.reduce_window"(%a, %c) <{window_dimensions = array<i64: 2, 1>,
    padding = dense<[[1, 0], [0, 0]]> : tensor<2x2xi64>}> ({
  ^bb0(%x: tensor<f32>, %y: tensor<f32>):
    %z = stablehlo.maximum %x, %y : tensor<f32>
    stablehlo.return %z : tensor<f32>
  }) : (tensor<2x2xf32>, tensor<f32>) -> tensor<2x2xf32>
  %cc:2 = stablehlo.custom_call @foo(%a, %t) {backend_config = {x = 1 : i32}, api_version = 4 : i32,
    has_side_effect = true, operand_layouts = [dense<[1, 0]> : tensor<2xindex>,
    dense<> : tensor<0xindex>], result_layouts = [dense<[0, 1]> : tensor<2xindex>,
    dense<> : tensor<0xindex>], foo.bar = "x"}
    : (tensor<2x2xf32>, !stablehlo.token) -> (tensor<2x2xf32>, !stablehlo.token)
  %se = "stablehlo.send"(%a, %t) <{channel_handle = #stablehlo.channel_handle<handle = 5,
    type = 2>, is_host_transfer = true}> : (tensor<2x2xf32>, !stablehlo.token) -> !stablehlo.token
  %rb:2 = stablehlo.rng_bit_generator %u, algorithm = THREE_FRY
    : (tensor<2xui64>) -> (tensor<2xui64>, tensor<2x2xui32>)
  %ff = stablehlo.fft %a, type = RFFT, length = [2] : (tensor<2x2xf32>) -> tensor<2x2xcomplex<f32>>
  %ex = stablehlo.exponential %a {result_accuracy = #stablehlo.result_accuracy<atol = 1.0,
    mode = #stablehlo.result_accuracy_mode<TOLERANCE>>} : tensor<2x2xf32>
  %rp = stablehlo.reduce_precision %a, format = e5m10 : tensor<2x2xf32>
  %ob:2 = stablehlo.optimization_barrier %a, %t : tensor<2x2xf32>, !stablehlo.token
  %se2 = stablehlo.select %p, %a, %a : tensor<2x2xi1>, tensor<2x2xf32>
  %ts = "stablehlo.triangular_solve"(%a, %a) <{left_side = true, lower = true,
    transpose_a = #stablehlo<transpose NO_TRANSPOSE>, unit_diagonal = false}>
    : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xf32>
  %bn:3 = "stablehlo.batch_norm_training"(%a, %r, %r) <{epsilon = 1.0e-5 : f32,
    feature_index = 1 : i64}> : (tensor<2x2xf32>, tensor<2xf32>, tensor<2xf32>)
    -> (tensor<2x2xf32>, tensor<2xf32>, tensor<2xf32>)
  %tk:2 = chlo.top_k(%a, k = 1) : tensor<2x2xf32> -> (tensor<2x1xf32>, tensor<2x1xi32>)
  %er = chlo.erf %a : tensor<2x2xf32> -> tensor<2x2xf32>
  %ri = stablehlo.replica_id : tensor<ui32>
  return
}
"""


def test_every_kind_of_operation_is_accepted_back() -> None:
    native = parse_native(PROGRAM)
    expected = native.operation.get_asm(print_generic_op_form=True)
    module = import_module(native)
    module.verify()
    assert not [op.name for op in module.walk() if op.name == "builtin.unregistered"]
    assert export_module(module).operation.get_asm(print_generic_op_form=True) == expected
    # our own generic text, read by jaxlib and by ourselves
    text = print_text(module, generic=True)
    assert parse_native(text).operation.get_asm(print_generic_op_form=True) == expected
    again = parse_text(make_context(), text)
    again.verify()
    assert print_text(again, generic=True) == text


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (
            '"stablehlo.add"(%a, %b) : (tensor<2x3xf32>, tensor<3x2xf32>) -> tensor<2x3xf32>',
            r"'stablehlo.add' is elementwise, but operand 1 is tensor<3x2xf32>",
        ),
        (
            '"stablehlo.transpose"(%a) <{permutation = array<i64: 1, 1>}> '
            ": (tensor<2x3xf32>) -> tensor<3x2xf32>",
            r"needs a permutation of 0 to 1, found \[1, 1\]",
        ),
        (
            '"stablehlo.reshape"(%a) : (tensor<2x3xf32>) -> tensor<7xf32>',
            r"the operand tensor<2x3xf32> has 6, the result tensor<7xf32> has 7",
        ),
        (
            '"stablehlo.dot_general"(%a, %b) <{dot_dimension_numbers = #stablehlo.dot<'
            "lhs_contracting_dimensions = [0], rhs_contracting_dimensions = [0]>}> "
            ": (tensor<2x3xf32>, tensor<3x2xf32>) -> tensor<3x2xf32>",
            r"contracting dimension of size 2 in lhs .* and 3 in rhs",
        ),
        (
            '"stablehlo.concatenate"(%a, %a) <{dimension = 0 : i64}> '
            ": (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<5x3xf32>",
            r"joins sizes \[2, 2\] along dimension 0, but the result has 5",
        ),
        (
            '"stablehlo.slice"(%a) <{start_indices = array<i64: 0, 0>, '
            "limit_indices = array<i64: 2, 4>, strides = array<i64: 1, 1>}> "
            ": (tensor<2x3xf32>) -> tensor<2x4xf32>",
            r"takes \[0:4:1\] of dimension 1, which has size 3",
        ),
    ],
)
def test_verifiers_name_both_sides(op: str, message: str) -> None:
    text = (
        '"func.func"() <{function_type = (tensor<2x3xf32>, tensor<3x2xf32>) -> (), '
        f'sym_name = "f"}}> ({{\n^bb0(%a: tensor<2x3xf32>, %b: tensor<3x2xf32>):\n  %0 = {op}\n'
        '  "func.return"() : () -> ()\n}) : () -> ()'
    )
    module = parse_text(make_context(), text)
    with pytest.raises(Exception, match=message):
        module.verify()
