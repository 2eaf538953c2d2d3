"""MLIR text in and out, of what JAX itself does not write."""

from __future__ import annotations

import pytest

from autopar.dialects import make_context
from autopar.dialects.diagnostics import DiagnosticError
from autopar.lowering.parse import parse_module, parse_native
from autopar.lowering.print import print_module
from autopar.passes.manager import build_pipeline, parse_pipeline
from autopar.reading import transform


def both_ways(text: str, *, generic: bool = False) -> str:
    """The printed text, which reads as the same module, through jaxlib and through xDSL alone."""
    module = parse_module(text)
    printed = print_module(module, generic=generic)
    assert print_module(parse_module(printed), generic=generic) == printed
    without = print_module(parse_module(text), use_jaxlib=False)
    assert print_module(parse_module(without), generic=generic) == printed
    return printed


DYNAMIC = """
shard.grid @g(shape = 2x?) {axis_names = ["x", "y"]}
func.func @main(%a: tensor<?x2xf32>, %b: tensor<8x8xf32>, %s: tensor<2xi64>, %z: tensor<f32>)
    -> tensor<?x2xf32> {
  %0 = stablehlo.add %a, %a : tensor<?x2xf32>
  %1 = stablehlo.dynamic_reshape %a, %s : (tensor<?x2xf32>, tensor<2xi64>) -> tensor<?x?xf32>
  %2 = stablehlo.dynamic_iota %s, dim = 0 : (tensor<2xi64>) -> tensor<?x?xf32>
  %3 = stablehlo.concatenate %a, %a, dim = 0
     : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %4 = stablehlo.slice %a [0:2, 0:1] : (tensor<?x2xf32>) -> tensor<2x1xf32>
  %5 = shard.all_gather %b on @g grid_axes = [1] gather_axis = 1
     : tensor<8x8xf32> -> tensor<8x?xf32>
  %6 = shard.broadcast %b on @g grid_axes = [1] root = [3] : (tensor<8x8xf32>) -> tensor<8x8xf32>
  return %0 : tensor<?x2xf32>
}
"""


def test_dynamic_shapes() -> None:
    printed = both_ways(DYNAMIC)
    assert "tensor<?x?xf32>" in printed and "-1" not in printed
    generic = print_module(parse_module(DYNAMIC), generic=True)
    assert print_module(parse_module(generic, use_jaxlib=False)) == printed


def test_dynamic_shapes_stay_whole() -> None:
    module = parse_module(
        """
sdy.mesh @m = <["x"=2]>
func.func @main(%a: tensor<?x4xf32>, %b: tensor<4x4xf32>
    {sdy.sharding = #sdy.sharding<@m, [{}, {"x"}]>}) -> tensor<?x4xf32> {
  %0 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0]
     : (tensor<?x4xf32>, tensor<4x4xf32>) -> tensor<?x4xf32>
  return %0 : tensor<?x4xf32>
}"""
    )
    passes = build_pipeline(parse_pipeline("import-sdy,sharding-propagation,shard-partition"))
    transform(module, passes, make_context())
    assert "shard.all_gather %arg1" in print_module(module)


QUANTISED = """
func.func @main(%a: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %0 = stablehlo.uniform_quantize %a
     : (tensor<4x8xf32>) -> tensor<4x8x!quant.uniform<i8:f32, 0.5:3>>
  %1 = stablehlo.add %0, %0 : tensor<4x8x!quant.uniform<i8:f32, 0.5:3>>
  %2 = stablehlo.uniform_dequantize %1
     : (tensor<4x8x!quant.uniform<i8:f32, 0.5:3>>) -> tensor<4x8xf32>
  %3 = stablehlo.uniform_quantize %a
     : (tensor<4x8xf32>) -> tensor<4x8x!quant.uniform<i8:f32:0, {0.5, 0.25, 0.1:-30, 1.0:127}>>
  return %2 : tensor<4x8xf32>
}
"""


def test_quantised_types() -> None:
    assert "!quant.uniform<i8:f32, 5.000000e-01:3>" in both_ways(QUANTISED)
    assert "!quant.uniform" in print_module(parse_module(QUANTISED), generic=True)


def test_binary_strings() -> None:
    printed = both_ways(
        """
func.func @main(%a: tensor<4xf32>) -> tensor<4xf32> attributes {x.y = ["\\FF", "\\C3\\A9\\00"]} {
  %0 = stablehlo.custom_call @foo(%a) {backend_config = "\\FF\\00"}
     : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}"""
    )
    assert 'backend_config = "\\FF\\00"' in printed and '["\\FF", "\\C3\\A9\\00"]' in printed


UNKNOWN = [
    "array<bf16: 1.000000e+00>",
    "array<f32: 1.000000e+00, 0x7FC00001>",
    'loc("a")',
    'dense<["a", "b"]> : tensor<2x!foo.str>',
    'distinct[0]<"a">',
    "sparse<0, 1.000000e+00> : tensor<2xf32>",
    "dense<(1.000000e+00,2.000000e+00)> : tensor<2xcomplex<f32>>",
    "0x7FC00001 : f32",
    "affine_set<(d0) : (d0 - 1 >= 0, d0 == 0)>",
    "affine_map<(d0) -> (d0 floordiv 2)>",
    "#foo.bar<a -> b>",
    "vector<[4]xf32>",
    "1 : i128",
    "strided<[?, 1], offset: 3>",
]


@pytest.mark.parametrize("text", UNKNOWN)
def test_attributes_of_every_kind(text: str) -> None:
    places = f'{{a.b = {text}, "a.c, }} = " = [{{x = {text}}}, "s=>"], d.e}}'
    printed = print_module(
        parse_module(
            f"func.func @f(%a: i1 {places}) attributes {places} {{\n"
            f'  "foo.bar"() {places} : () -> ()\n  return\n}}'
        )
    )
    assert printed.count(text) in (6, 1), printed  # 1: MLIR makes it an alias
    assert print_module(parse_module(printed)) == printed


RESOURCES = """
"builtin.module"() ({
  "func.func"() <{function_type = () -> (), sym_name = "main"}> ({
    %0 = "stablehlo.constant"() <{value = dense_resource<w> : tensor<2xf32>}> : () -> tensor<2xf32>
    %1 = "stablehlo.constant"() <{value = dense_resource<w> : tensor<2xf32>}> {a.b = [
      dense_resource<w> : tensor<1x2xf32>, dense_resource<w> : tensor<2xf32>]
    } : () -> tensor<2xf32>
    %2 = "stablehlo.constant"() <{value = dense_resource<"a b"> : tensor<3xi1>}>
       : () -> tensor<3xi1>
    "func.return"() : () -> ()
  }) : () -> ()
}) : () -> ()
{-# dialect_resources: { builtin: { w: "0x04000000000080BF0100C07F",
    "a b": "0x01000000010001" }} #-}
"""


def test_resources_become_constants() -> None:
    printed = both_ways(RESOURCES)
    assert printed.count("dense<[-1.000000e+00, 0x7FC00001]> : tensor<2xf32>") == 3
    assert "[dense<[[-1.000000e+00, 0x7FC00001]]> : tensor<1x2xf32>, dense<[-1.0" in printed
    assert "dense<[true, false, true]>" in printed
    assert print_module(parse_module(RESOURCES, use_jaxlib=False)) == printed


@pytest.mark.parametrize("use_jaxlib", [True, False])
def test_resources_of_another_size(use_jaxlib: bool) -> None:
    text = RESOURCES.replace("0100C07F", "0100C07F00000000")
    with pytest.raises(DiagnosticError, match="resource 'w': the hex string has 12 bytes"):
        parse_module(text, "m.mlir", use_jaxlib=use_jaxlib)


@pytest.mark.parametrize("use_jaxlib", [True, False])
@pytest.mark.parametrize("attributes", ["", ", d = dense<(1.0,2.0)> : tensor<complex<f32>>"])
def test_resources_that_are_missing(use_jaxlib: bool, attributes: str) -> None:
    constant = "dense_resource<gone> : tensor<2xf32>"
    text = f'module {{ "foo.a"() {{c = [{constant}]{attributes}}} : () -> () }}'
    with pytest.raises(DiagnosticError, match=r"m.mlir:1:\d+: .*resource 'gone' is not in"):
        parse_module(text, "m.mlir", use_jaxlib=use_jaxlib)


def test_resources_beside_complex_constants() -> None:
    text = RESOURCES.replace(
        "{a.b = [", "{d = 1 : i8, c = dense<(1.0,2.0)> : tensor<complex<f32>>, a.b = ["
    )
    assert "dense_resource" not in print_module(parse_module(text))


def test_recv_without_source() -> None:
    printed = both_ways(
        """
shard.grid @g(shape = 2x4)
func.func @f(%a: tensor<8x8xf32>, %i: index) {
  %0 = shard.recv %a on @g grid_axes = [0] : (tensor<8x8xf32>) -> tensor<8x8xf32>
  %1 = shard.recv %a on @g grid_axes = [0] source = [1] : (tensor<8x8xf32>) -> tensor<8x8xf32>
  %2 = shard.recv %a on @g grid_axes = [0] source = [%i]
     : (tensor<8x8xf32>, index) -> tensor<8x8xf32>
  return
}"""
    )
    assert "shard.recv %arg0 on @g grid_axes = [0] : " in printed
    assert "grid_axes = [0] source = [1] : " in printed
    assert "grid_axes = [0] source = [%arg1] : " in printed


UNKNOWN_OPS = """
func.func @f(%a: i1) {
  %0 = "foo.bar"(%a) <{p = 1 : i32}> {d = "x"} : (i1) -> i1
  "foo.bar"(%a) <{p = {q = "}>"}, r}> : (i1) -> ()
  "foo.bar"() {p = 1 : i32} : () -> ()
  "foo.both"(%0) <{p = 1 : i32}> ({
  ^bb0(%b: i1):
    "foo.inner"(%b) <{p = 2 : i32}> ({
      "foo.leaf"() <{s}> {d} : () -> ()
    }, {
    }) : (i1) -> ()
  }) {p = "other"} : (i1) -> ()
  "foo.br"()[^bb1] <{p = array<i64: 1, 2>}> : () -> ()
^bb1:
  return
}
"""


def test_properties_of_unknown_ops() -> None:
    printed = both_ways(UNKNOWN_OPS)
    for line in UNKNOWN_OPS.splitlines():
        if "<{" in line:
            assert line.strip().replace("%a", "%arg0").replace("%b", "%arg1") in printed
    assert '}) {p = "other"} : (i1) -> ()' in printed
    both_ways(UNKNOWN_OPS, generic=True)


def test_properties_of_unknown_ops_in_memory() -> None:
    from tests.lowering.test_roundtrip import check

    check(parse_native(UNKNOWN_OPS))
    check(
        parse_native(
            '"foo.a"() <{a = 1 : i32}> {a = 2 : i32} : () -> ()\n'
            '"foo.a"() <{a = 2 : i32}> {a = 2 : i32} : () -> ()\n'
            '"foo.a"() {"!properties" = {a = 2 : i32}} : () -> ()\n'
            '"foo.a"() <{s = "\\FF({", "\\FE" = "\\"foo.a\\"()"}> : () -> ()\n'
            '"foo.a"() <{op_name__, p}> {c = dense<(1.0,2.0)> : tensor<complex<f32>>} : () -> ()\n'
        )
    )


TWICE = [
    ('"foo.a"() {op_name__ = "b"} : () -> ()', "the attribute 'op_name__' .* cannot be kept"),
    ('"shard.grid"() <{shape = 1 : i8}> {shape = 2 : i8} : () -> ()', "an attribute named 'shape'"),
]


@pytest.mark.parametrize(("op", "message"), TWICE)
def test_attributes_that_cannot_be_kept(op: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=f"m.mlir:1:10: error: .*{message}"):
        parse_module(f"module {{ {op} }}", "m.mlir")


def test_properties_that_are_attributes_too() -> None:
    module = parse_module("func.func private @f()")
    (func,) = module.ops
    func.attributes["sym_name"] = func.properties["sym_name"]
    with pytest.raises(DiagnosticError, match="'sym_name' twice"):
        print_module(module)


DECLARATIONS = """
func.func private @g(tensor<2xf32> {a.b}, i1) -> (tensor<2xf32> {c.d = 1 : i32})
func.func private @h(i1, i1 {a.b = "}"}) -> i1 attributes {x.y}
func.func private @i(i1)
"""


def test_attributes_of_declarations() -> None:
    printed = both_ways(DECLARATIONS)
    assert "@g(tensor<2xf32> {a.b}, i1) -> (tensor<2xf32> {c.d = 1 : i32})" in printed
    assert print_module(parse_module(DECLARATIONS, use_jaxlib=False)) == printed


def test_deep_nesting() -> None:
    text = f"func.func @f() attributes {{a.b = {'[' * 5000}{']' * 5000}}} {{ return }}"
    with pytest.raises(DiagnosticError, match=r"m.mlir:1:1: error: .* nested too deeply"):
        parse_module(text, "m.mlir")


def test_a_text_that_no_token_begins() -> None:
    with pytest.raises(DiagnosticError) as caught:
        parse_module("%/ x\nshard.grid @m(shape = 2)\n", "t.mlir")
    assert str(caught.value) == "t.mlir:1:1: error: Expected suffix identifier after %"


WITH_SDY = """
func.func @main(%a: tensor<8xf32>) -> tensor<8xf32> {
  %0 = sdy.data_flow_edge %a : tensor<8xf32>
  return %0 : tensor<8xf32>
}
"""


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ('@m(shape = 2x4x4) {axis_names = ["x", "y"]}', "@m: 2 axis_names for 3 axes of the shape"),
        ('@m(shape = 2x4) {axis_names = ["x", "x"]}', '@m: axis name "x" is used twice'),
        ("@m(shape = 2x?)", "the size of axis '1' is not known"),
    ],
)
def test_malformed_grids_beside_sdy_ops(grid: str, message: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        parse_module(f"shard.grid {grid}{WITH_SDY}", "t.mlir")
    assert str(caught.value).startswith("t.mlir:1:1: error: ") and message in str(caught.value)


def test_quoted_names_of_grids_beside_sdy_ops() -> None:
    grid = r'shard.grid @"the mesh"(shape = 2x4) {axis_names = ["x", "a\22b"]}'
    assert grid in print_module(parse_module(grid + WITH_SDY))


def test_operations_that_are_misspelt_or_not_complete() -> None:
    grid = "shard.grid @m(shape = 2)\n"
    for statement, message in (
        (
            "%s = shard.shrading @m split_axes = [[0]] : !shard.sharding",
            "'shard.shrading' op is not known; did you mean 'shard.sharding'?",
        ),
        (
            "%0 = linalg.matmul ins(%a, %a : tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32>",
            "this operation cannot be read",
        ),
    ):
        text = f"{grid}func.func @f(%a: tensor<4x4xf32>) {{\n{statement}\nreturn\n}}\n"
        with pytest.raises(DiagnosticError) as caught:
            parse_module(text, "t.mlir")
        assert message in caught.value.message
        assert str(caught.value).startswith("t.mlir:3:")
