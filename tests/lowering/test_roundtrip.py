"""jaxlib's modules through xDSL and back: the same text, bit for bit, locations included."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from autopar.dialects.constants import constant_array, dense_attr, is_splat
from autopar.dialects.diagnostics import DiagnosticError, location_text
from autopar.dialects.stablehlo import ConstantOp
from autopar.lowering.exporter import export_module
from autopar.lowering.importer import import_module
from autopar.lowering.parse import parse_module, parse_native
from autopar.lowering.print import print_module


def asm(module: Any) -> str:
    """Everything that a module says, in generic form."""
    return module.operation.get_asm(
        print_generic_op_form=True, enable_debug_info=True, use_local_scope=True
    )


def check(native: Any) -> None:
    module = import_module(native)
    module.verify()
    assert asm(export_module(module)) == asm(native)


LITERALS = {
    "f32": ["0xFF800000", "0x7FC00001", "0xFFC12345", "-0.0", "1.5", "0x00000001"],
    "f64": ["0x7FF0000000000000", "0x7FF8000000000001", "0.1", "-0.0"],
    "f16": ["0x7C00", "0x7E01", "0.1", "-0.0"],
    "bf16": ["0x7F80", "0x7FC1", "0.1", "-0.0"],
    "f8E4M3FN": ["0x7F", "0xFF", "1.5", "0x01"],
    "f8E5M2": ["0x7C", "0x7F", "1.5"],
    "f8E4M3FNUZ": ["0x80", "1.5"],
    "f8E5M2FNUZ": ["0x80", "1.5"],
    "f8E4M3B11FNUZ": ["0x80", "1.5"],
    "f8E3M4": ["0x70", "1.5"],
    "f8E4M3": ["0x78", "1.5"],
    "f8E8M0FNU": ["0xFF", "2.0"],
    "f4E2M1FN": ["1.5", "-6.0"],
    "i1": ["true", "false", "true"],
    "i2": ["1", "-2", "0"],
    "i4": ["7", "-8", "0"],
    "i8": ["127", "-128"],
    "i16": ["-32768", "5"],
    "i32": ["2147483647", "-1"],
    "i64": ["9223372036854775807", "-1"],
    "ui2": ["3", "0"],
    "ui4": ["15", "0"],
    "ui8": ["255", "1"],
    "ui16": ["65535", "1"],
    "ui32": ["4294967295", "1"],
    "ui64": ["18446744073709551615", "1"],
    "complex<f32>": ["(0x7F800000,-0.0)", "(0x7FC00001,1.0)"],
    "complex<f64>": ["(0x7FF0000000000000,-0.0)", "(0.1,1.0)"],
}


@pytest.mark.parametrize("element", LITERALS)
@pytest.mark.parametrize("shape", ["list", "splat", "scalar", "hex", "empty"])
def test_constants_keep_their_bits(element: str, shape: str) -> None:
    values = LITERALS[element]
    literal, dims = {
        "list": (f"[{', '.join(values)}]", f"{len(values)}x"),
        "splat": (values[0], "40x50x"),
        "scalar": (values[0], ""),
        "hex": (f"[{', '.join((values * 200)[:200])}]", "200x"),
        "empty": ("", "0x3x"),
    }[shape]
    type_ = f"tensor<{dims}{element}>"
    native = parse_native(
        f"func.func @main() -> {type_} {{\n"
        f"  %0 = stablehlo.constant dense<{literal}> : {type_}\n  return %0 : {type_}\n}}"
    )
    check(native)
    module = import_module(native)
    # and through text: jaxlib's, and ours
    assert print_module(parse_module(asm(native))) == print_module(module)
    ours = print_module(module, use_jaxlib=False)
    assert print_module(parse_module(ours, use_jaxlib=False)) == print_module(module)
    constant = next(op for op in module.walk() if isinstance(op, ConstantOp))
    if shape == "splat":
        assert len(constant.value.data.data) == constant.value.get_element_type().compile_time_size


@pytest.mark.parametrize(
    "dtype",
    [
        np.bool_, np.int8, np.uint16, np.int32, np.uint64, np.float16, np.float32, np.float64,
        np.complex64, np.complex128, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float4_e2m1fn,
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [(), (3, 2), (30, 20), (0, 4)])
def test_numpy_round_trip(dtype: Any, size: tuple[int, ...]) -> None:
    array = np.asarray(np.random.default_rng(0).normal(size=size) * 3).astype(dtype)
    attr = dense_attr(array)
    back = constant_array(attr)
    assert back.dtype == array.dtype and back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    splat = dense_attr(np.broadcast_to(np.asarray(1).astype(dtype), (5, 7)))
    assert is_splat(splat) and len(splat.data.data) == splat.get_element_type().compile_time_size
    assert constant_array(splat).shape == (5, 7)


def _step(x: Any, w: Any, key: Any) -> Any:
    def body(carry: Any, _: Any) -> Any:
        return jnp.tanh(carry @ w) ** 2, carry.sum()

    y, sums = jax.lax.scan(jax.checkpoint(body), x, None, length=3)
    noise = jax.random.normal(key, y.shape)
    order = jnp.argsort(y, axis=-1)
    picked = jnp.take_along_axis(y, order, axis=-1)
    spectrum = jnp.abs(jnp.fft.fft(picked * (1 + 2j)))
    branch = jax.lax.cond(sums[0] > 0, lambda: picked, lambda: -picked)
    return (branch + noise).astype(jnp.bfloat16).sum() + spectrum.sum()


def test_a_jax_program() -> None:
    x = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    w = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    native = jax.jit(jax.value_and_grad(_step)).lower(x, w, jax.random.key(0)).compiler_ir()
    check(native)


def test_interning_and_locations() -> None:
    native = jax.jit(lambda x: jnp.sin(x) + jnp.cos(x)).lower(1.0).compiler_ir()
    module = import_module(native)
    types = [r.type for op in module.walk() for r in op.results]
    assert len({id(t) for t in types}) == len(set(types))
    places = [location_text(op) for op in module.walk() if op.name == "stablehlo.sine"]
    assert places and places[0].startswith(__file__ + ":")


def test_unknown_ops_attributes_and_types_survive() -> None:
    native = parse_native(
        'func.func @main(%a: tensor<2x!foo.bar<"x", 1>>) attributes {foo.x = #foo<y 1>} {\n'
        '  %0:2 = "foo.op"(%a) ({\n  ^bb0(%b: index):\n    "foo.end"(%b) : (index) -> ()\n  })'
        ' {z = #foo.z<[1, {a = 2}]>, u} : (tensor<2x!foo.bar<"x", 1>>) -> (index, !foo.t)\n'
        "  return\n}"
    )
    check(native)


def test_refused_modules_name_the_operation() -> None:
    module = parse_module(
        "func.func @main(%a: tensor<4xf32>) -> tensor<4xf32> {\n"
        "  %0 = stablehlo.tanh %a : tensor<4xf32>\n  return %0 : tensor<4xf32>\n}",
        "prog.mlir",
    )
    tanh = next(op for op in module.walk() if op.name == "stablehlo.tanh")
    tanh.results[0]._type = parse_module(  # pyright: ignore[reportPrivateUsage]
        "func.func private @f() -> tensor<5xf32>"
    ).body.block.first_op.function_type.outputs.data[0]  # pyright: ignore
    with pytest.raises(DiagnosticError, match=r"prog.mlir:2:\d+: error: .*all"):
        export_module(module)
