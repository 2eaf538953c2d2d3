"""The bytecode that the exporter writes: every kind of entry, and what jaxlib refuses."""

from __future__ import annotations

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp, TensorType, UnitAttr
from xdsl.ir import Attribute, Block, Operation

from autopar.dialects.constants import dense_attr
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.stablehlo import ConstantOp
from autopar.lowering.bytecode import varints
from autopar.lowering.exporter import export_module
from autopar.lowering.importer import import_module
from autopar.lowering.parse import parse_module, parse_native
from autopar.lowering.print import print_module
from tests.lowering.test_roundtrip import asm, check


def decode(data: bytes) -> list[int]:
    """As the format describes its numbers."""
    numbers: list[int] = []
    while data:
        width = (data[0] & -data[0]).bit_length()
        if not width:
            numbers.append(int.from_bytes(data[1:9], "little"))
            data = data[9:]
            continue
        numbers.append(int.from_bytes(data[:width], "little") >> width)
        data = data[width:]
    return numbers


@pytest.mark.parametrize("bits", [7, 14, 21, 28, 35, 42, 49, 55, 56, 62, 63])
def test_numbers_of_every_width(bits: int) -> None:
    numbers = [0, 1, (1 << bits) - 1, 1 << bits, 5, (1 << bits) + 1]
    assert decode(varints(numbers)) == numbers
    assert len(varints([(1 << bits) - 1])) == ((bits + 6) // 7 if bits <= 56 else 9)
    assert varints([]) == b""


ATTRIBUTES = [
    "unit", "true", "-1 : i1", "5 : i8", "-5 : i8", "0 : i32", "2147483647 : i32", "-1 : i32",
    "9223372036854775807 : i64", "-9223372036854775808 : i64", "7 : index", "-7 : index",
    "18446744073709551615 : ui64", "-3 : si16", "170141183460469231731687303715884105727 : i128",
    '"abc" : i32', '["\\FF" : !foo.s]', "1.0 : f80", "0.1 : f128", "0x7FFF8000000000000001 : f80",
    "0x7E01 : f16", "0xFE01 : f16", "0x7C01 : f16", "0xFFC1 : bf16", "0x7F81 : bf16",
    "0xFF : f8E4M3FN", "0xFE : f8E5M2", "0x80 : f8E4M3FNUZ", "0x7F800001 : f32",
    "[0x7E01 : f16, {a = 0x7E01 : f16}]", "0xFFF0000000000001 : f64", "0xFC00 : f16",
    "1.5 : f32", "0x7FC00001 : f32", "0.1 : f64", "2.0 : bf16", '"text"', '"\\00\\FF\\22\\n"', '""',
    '"ünïcödé"', "[]", "[1, [2 : i8, {}]]", "{}", "{b = 1, a = {c}}", "@f", "@f::@g::@h",
    "tensor<4xf32>", "tensor<?x3xi1>", "tensor<*xf32>", "tensor<2x!foo.t>", "tensor<0x2xbf16>",
    "tensor<4xf32, #stablehlo.bounds<?>>", "tensor<?xf32, #stablehlo.bounds<7>>",
    "(i32, tensor<2xf32>) -> (f32)", "() -> ()", "tuple<i32, f32>", "none", "index",
    "memref<4xf32>", "vector<4xf32>", "complex<f32>", "!foo.bar<[1, x]>", "#foo.bar<[1, x]>",
    "array<i1: true, false>", "array<i8: 1, -1>", "array<i32: 1>", "array<i64>",
    "array<i64: 1, -2, 9223372036854775807>", "array<f32: 1.5, 2.5>",
    "dense<1> : vector<4xi32>", "dense<[1, 2]> : vector<2xi32>",
    'dense<["a", "b"]> : tensor<2x!foo.s>',
    "dense<5> : tensor<3xindex>", "dense<[5, -6]> : tensor<2xindex>", "dense<true> : tensor<9xi1>",
    "dense<[true, true, true, true, true, true, true, true]> : tensor<8xi1>",
    "dense<[[true, false, true], [false, false, true]]> : tensor<2x3xi1>",
    "dense<[5, -6]> : tensor<2xi12>", "dense<[5, -6]> : tensor<2xi24>",
    "dense<-1> : tensor<4xi128>",
    "sparse<[[0, 0]], [1]> : tensor<3x4xi32>", "affine_map<(d0) -> (d0 + 1)>",
    "#stablehlo.channel_handle<handle = 1, type = 1>", "#stablehlo<precision HIGHEST>",
    "strided<[1], offset: 2>",
]  # fmt: skip


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_attributes_of_every_kind(attribute: str) -> None:
    check(parse_native(f"module attributes {{t.x = {attribute}}} {{}}"))
    check(parse_native(f'module {{ "foo.op"() {{y, x = [{attribute}]}} : () -> () }}'))


@pytest.mark.parametrize("size", [1 << 55, (1 << 55) - 1, 1 << 62, (1 << 63) - 1])
def test_dimensions_of_every_size(size: int) -> None:
    check(parse_native(f"func.func private @f(tensor<{size}xi8>) -> tensor<2x{size}xi1>"))


LOCATIONS = [
    "unknown", '"f.py":1:2', '"f.py":0:0', '"f.py":70000:300', '"f.py":4294967295:4294967295',
    '"f.py":1:2 to :7',
    '"f.py":1:2 to 3:4', '"name"', '"name"("f.py":1:2)', '"a"("b"("c"))',
    'callsite("f"("f.py":1:2) at "g.py":3:4)', 'callsite("f" at callsite("g" at "h"))',
    'fused["a", "b"("f.py":1:2 to :3)]', 'callsite(fused["a", "b"] at unknown)',
    '"ü\\22"("é.py":1:2)', 'fused<"meta">["x", "y"]', 'fused<{x = 1 : i32}>["a"]',
    'fused<"m\\FF">[unknown]', '"n"(fused<#foo.x<1>>["f.py":1:2 to :3])',
    'fused<"m">["a", fused<"n">["b", "c"], fused["d", "e"]]',
]  # fmt: skip


@pytest.mark.parametrize("location", LOCATIONS)
def test_locations_of_every_kind(location: str) -> None:
    check(
        parse_native(
            "module {\n  func.func @main(%a: i32 loc("
            + location
            + ")) { func.return loc(unknown) } loc("
            + location
            + ")\n} loc("
            + location
            + ")"
        )
    )


def test_blocks_and_regions() -> None:
    check(
        parse_native(
            'func.func private @declared(i32)\n"foo.empty"() ({}, {^bb0:}) : () -> ()\n'
            'func.func @main(%a: i32, %b: i64) {\n  "foo.switch"(%a) [^one, ^two] : (i32) -> ()\n'
            '^one:\n  %0:2 = "foo.two"(%b) : (i64) -> (i32, f32)\n'
            '  "foo.br"(%0#0, %0#1)[^two] : (i32, f32) -> ()\n'
            '^two:\n  "foo.outer"(%a) ({\n  ^bb0(%x: f32):\n    %1 = "foo.in"(%x, %b) ({\n'
            '      %2 = "foo.deep"(%x, %a) : (f32, i32) -> i8\n      "foo.end"(%2) : (i8) -> ()\n'
            '    }) : (f32, i64) -> i16\n    "foo.end"(%1) : (i16) -> ()\n  }, {\n'
            '  ^bb0(%y: f64):\n    "foo.end"(%y, %a) : (f64, i32) -> ()\n  }) : (i32) -> ()\n'
            "  return\n}"
        )
    )


@pytest.mark.parametrize("count", [10, 200, 20_000])
def test_as_many_values_as_numbers_of_a_width(count: int) -> None:
    lines = "\n".join(
        f"  %{i} = stablehlo.add %{i - 1}, %{i // 2} : tensor<f32>" for i in range(1, count)
    )
    native = parse_native(
        f"func.func @main(%0: tensor<f32>) -> tensor<f32> {{\n{lines}\n"
        f"  return %{count - 1} : tensor<f32>\n}}"
    )
    check(native)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int32, np.float32, np.complex64])
def test_large_constants(dtype: type[np.generic]) -> None:
    array = np.random.default_rng(0).integers(0, 2, (1 << 18) + 3).astype(dtype)
    module = parse_module("func.func @main() -> tensor<f32> {\n  %0 = stablehlo.constant dense<1.0>"
                          " : tensor<f32>\n  return %0 : tensor<f32>\n}")  # fmt: skip
    constant = next(op for op in module.walk() if isinstance(op, ConstantOp))
    constant.attributes["foo.x"] = dense_attr(array)
    back = next(
        op for op in import_module(export_module(module)).walk() if op.name == constant.name
    )
    assert back.attributes["foo.x"] == constant.attributes["foo.x"]


MAIN = (
    "func.func @main(%a: tensor<4xf32>) -> tensor<4xf32> {\n"
    "  %0 = stablehlo.tanh %a : tensor<4xf32>\n  return %0 : tensor<4xf32>\n}\n"
)


def main_and_other() -> ModuleOp:
    return parse_module(MAIN + MAIN.replace("@main", "@other"), "prog.mlir")


def test_values_of_other_functions_are_refused() -> None:
    module = main_and_other()
    first, second = (op for op in module.walk() if op.name == "stablehlo.tanh")
    second.operands = [first.results[0]]
    with pytest.raises(DiagnosticError, match=r"prog.mlir:6:\d+: error: .*operand #0"):
        export_module(module)


def test_refused_attributes_are_named() -> None:
    module = main_and_other()
    module.attributes["foo.ok"] = UnitAttr()
    module.attributes["foo.x"] = parse_module(
        'module attributes {foo.x = #stablehlo.nonsense<1>} {}', use_jaxlib=False
    ).attributes["foo.x"]  # fmt: skip
    with pytest.raises(DiagnosticError, match=r"refuses the attribute #stablehlo.nonsense<1>: "):
        export_module(module)


def test_refused_types_are_errors() -> None:
    module = main_and_other()
    tanh = next(op for op in module.walk() if op.name == "stablehlo.tanh")
    nested: Attribute = TensorType(tanh.results[0].type, [2])
    tanh.results[0]._type = nested  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(DiagnosticError):
        export_module(module)


def test_refused_modules_can_be_printed() -> None:
    module = main_and_other()
    tanh = next(op for op in module.walk() if op.name == "stablehlo.tanh")
    tanh.results[0]._type = TensorType(  # pyright: ignore[reportPrivateUsage]
        tanh.results[0].type.element_type,  # pyright: ignore
        [5],
    )
    with pytest.raises(DiagnosticError):
        print_module(module)
    assert "tensor<5xf32>" in print_module(module, verify=False)


FORWARD = [
    'func.func @main(%a: i8) {\n  "foo.br"() [^two] : () -> ()\n^one:\n'
    '  "foo.use"(%0, %a, %1, %0) ({\n    "foo.in"(%1, %0) : (i16, i32) -> ()\n  })'
    " : (i32, i8, i16, i32) -> ()\n  return\n^two:\n"
    '  %0, %1 = "foo.make"() : () -> (i32, i16)\n  "foo.br"() [^one] : () -> ()\n}',
    '"foo.use"(%v) ({\n^bb0(%x: i8):\n  "foo.in"(%v, %w, %x) : (i32, i16, i8) -> ()\n'
    '  %w = "foo.def"(%x) : (i8) -> i16\n  module { "foo.in"(%y) : (i64) -> ()\n'
    '    %y = "foo.def"(%y) : (i64) -> i64\n  }\n}) : (i32) -> ()\n%v = "foo.def"() : () -> i32',
]


@pytest.mark.parametrize("text", FORWARD)
def test_values_used_before_they_are_defined(text: str) -> None:
    native = parse_native(text, "prog.mlir")
    check(native)
    for op in import_module(native).walk():
        for operand in op.operands:
            assert any(use.operation is op for use in operand.uses)
            assert isinstance(operand.owner, (Block, Operation))


def test_ops_of_no_dialect() -> None:
    module = import_module(parse_native('module { "foo.a"() : () -> () }'))
    assert asm(export_module(module)).count("foo.a") == 1


def test_strings_like_regions_beside_complex_constants() -> None:
    odd = '"({...}) }, {{"'
    check(
        parse_native(
            'module {\n  %0 = "stablehlo.constant"() {value = dense<(1.0,2.0)> : '
            f"tensor<complex<f32>>, foo.s = {odd}, foo.t = [{odd}, 0x7E01 : f16]}}"
            ' : () -> tensor<complex<f32>>\n  "foo.a(){"(%0) ({}, {}) '
            f"{{a = {odd}, c = dense<(1.0,2.0)> : tensor<complex<f32>>}}"
            " : (tensor<complex<f32>>) -> ()\n}"
        )
    )
