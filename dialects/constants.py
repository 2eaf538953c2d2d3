"""Dense constants of every element type: bytes, NumPy arrays and text, bit for bit.

xDSL keeps the elements of `dense<…>` as bytes. Two conventions of this project:
- a splat (all elements the same bits) keeps ONE element, whatever its shape, so that a large
  `dense<0.0>` costs nothing. `constant_array` gives the whole (broadcast, read-only) array.
- bits are never changed: inf, NaN payloads and -0.0 survive, which xDSL's own text reader and
  writer do not promise.
"""

from __future__ import annotations

import re
from functools import cache
from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects import builtin
from xdsl.dialects.builtin import (
    BytesAttr,
    ComplexType,
    DenseIntOrFPElementsAttr,
    IndexType,
    IntegerType,
    Signedness,
    TensorType,
)
from xdsl.ir import Attribute

Array = NDArray[Any]

_NUMPY_FLOATS = {"f16": np.float16, "f32": np.float32, "f64": np.float64}
_ML_DTYPES = {
    "bf16": "bfloat16",
    "f8E3M4": "float8_e3m4",
    "f8E4M3": "float8_e4m3",
    "f8E4M3B11FNUZ": "float8_e4m3b11fnuz",
    "f8E4M3FN": "float8_e4m3fn",
    "f8E4M3FNUZ": "float8_e4m3fnuz",
    "f8E5M2": "float8_e5m2",
    "f8E5M2FNUZ": "float8_e5m2fnuz",
    "f8E8M0FNU": "float8_e8m0fnu",
    "f4E2M1FN": "float4_e2m1fn",
    "f6E2M3FN": "float6_e2m3fn",
    "f6E3M2FN": "float6_e3m2fn",
}
"""Element types that NumPy alone does not have, by their name in ml_dtypes (a part of JAX)."""


class UnsupportedElementType(TypeError):
    """NumPy (with ml_dtypes) has no such element type."""


def _ml_dtype(name: str) -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError as error:
        raise UnsupportedElementType(
            f"reading {name} values needs the package ml_dtypes (pip install ml_dtypes)"
        ) from error
    return np.dtype(getattr(ml_dtypes, name))


@cache
def numpy_dtype(element_type: Attribute) -> np.dtype[Any]:
    """The NumPy dtype of an element type (ml_dtypes' for bf16, f8, i4 …)."""
    match element_type:
        case IntegerType():
            width = element_type.width.data
            unsigned = element_type.signedness.data is Signedness.UNSIGNED
            if width == 1 and not unsigned:
                return np.dtype(np.bool_)
            if width in (8, 16, 32, 64):
                return np.dtype(f"{'u' if unsigned else ''}int{width}")
            if width in (1, 2, 4):
                return _ml_dtype(f"{'u' if unsigned else ''}int{width}")
        case IndexType():
            return np.dtype(np.int64)
        case ComplexType():
            if element_type.element_type == builtin.f32:
                return np.dtype(np.complex64)
            if element_type.element_type == builtin.f64:
                return np.dtype(np.complex128)
        case _:
            name = str(element_type)
            if name in _NUMPY_FLOATS:
                return np.dtype(_NUMPY_FLOATS[name])
            if name in _ML_DTYPES:
                return _ml_dtype(_ML_DTYPES[name])
    raise UnsupportedElementType(f"no NumPy dtype for element type {element_type}")


@cache
def element_type_of_dtype(dtype: np.dtype[Any]) -> Attribute:
    """The element type of a NumPy (or ml_dtypes) dtype; signed integers are signless."""
    name = dtype.name
    if name == "bool":
        return IntegerType(1)
    if match := re.fullmatch(r"(u?)int(\d+)", name):
        signedness = Signedness.UNSIGNED if match[1] else Signedness.SIGNLESS
        return IntegerType(int(match[2]), signedness)
    if name in ("float16", "float32", "float64"):
        return {"float16": builtin.f16, "float32": builtin.f32, "float64": builtin.f64}[name]
    if name in ("complex64", "complex128"):
        return ComplexType(builtin.f32 if name == "complex64" else builtin.f64)
    for spelled, ml_name in _ML_DTYPES.items():
        if ml_name == name:
            return getattr(builtin, spelled)
    raise UnsupportedElementType(f"no element type for NumPy dtype {dtype}")


def extremes(dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """The least and the greatest value, as scalar arrays: infinities where the dtype has them, else
    the ends of its finite range (f8E4M3FN and its like, integers)."""
    if dtype == np.bool_:
        return np.array(False), np.array(True)
    if dtype.kind == "c":
        ends = [np.array(complex(end, end), dtype) for end in (-np.inf, np.inf)]
        return ends[0], ends[1]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.array(limits.min, dtype), np.array(limits.max, dtype)
    with np.errstate(invalid="ignore"):
        infinities = [np.array(end).astype(dtype) for end in (-np.inf, np.inf)]
    if dtype.type.__module__ == "numpy":
        return infinities[0], infinities[1]
    import ml_dtypes  # whose dtype it is

    if "int" in dtype.name:
        limits = cast(Any, ml_dtypes.iinfo(dtype))
    elif all(np.isinf(float(end)) for end in infinities):
        return infinities[0], infinities[1]
    else:
        limits = cast(Any, ml_dtypes.finfo(dtype))
    return np.array(limits.min).astype(dtype), np.array(limits.max).astype(dtype)


def storage_dtype(element_type: Attribute) -> np.dtype[Any]:
    """The dtype of the stored bytes: raw bits for floats, sign-extended bytes for i1, i4 …"""
    dtype = numpy_dtype(element_type)
    if isinstance(element_type, IntegerType):
        integer = cast(IntegerType, element_type)
        width = (integer.width.data + 7) // 8 * 8
        unsigned = integer.signedness.data is Signedness.UNSIGNED
        return np.dtype(f"{'u' if unsigned else ''}int{width}")
    return dtype


# ---- NumPy ---------------------------------------------------------------------------------------


def _from_storage(data: Array, element_type: Attribute) -> Array:
    dtype = numpy_dtype(element_type)
    if dtype == np.bool_:
        return data != 0
    return data.astype(dtype) if data.dtype != dtype else data


def _to_storage(array: Array, element_type: Attribute) -> Array:
    storage = storage_dtype(element_type)
    if array.dtype == np.bool_:  # xDSL keeps a signless true as -1
        return -array.astype(np.int8)
    return array.astype(storage) if array.dtype != storage else array


def constant_array(attr: DenseIntOrFPElementsAttr) -> Array:
    """The elements as a read-only array of the attribute's shape and dtype."""
    element_type, shape = attr.get_element_type(), attr.get_shape()
    data = np.frombuffer(attr.data.data, storage_dtype(element_type))
    data = _from_storage(data, element_type)
    array = data.reshape(shape) if data.size == prod(shape) else np.broadcast_to(data, shape)
    array.flags.writeable = False
    return array


def _all_same_bits(data: Array) -> bool:
    if data.size < 2 or not data.flags.c_contiguous:
        return data.size > 1 and _all_same_bits(np.ascontiguousarray(data))
    raw = data.reshape(-1).view(np.uint8).reshape(data.size, -1)
    return bool((raw[1] == raw[0]).all()) and bool((raw == raw[0]).all())


def dense_attr(array: Array, type: TensorType[Any] | None = None) -> DenseIntOrFPElementsAttr:
    """`dense<…>` with the bits of the array; equal elements are kept as a splat.

    `type` overrides the tensor type (same shape; same element width), e.g. for signless integers
    of an unsigned array or for an encoding.
    """
    if type is None:
        type = TensorType(element_type_of_dtype(array.dtype), array.shape)
    stored = _to_storage(array, type.element_type)
    if _all_same_bits(stored):
        stored = stored.reshape(-1)[:1]
    return DenseIntOrFPElementsAttr(type, BytesAttr(stored.tobytes()))


def is_splat(attr: DenseIntOrFPElementsAttr) -> bool:
    """Whether all elements have the same bits."""
    size = attr.get_element_type().compile_time_size
    data = attr.data.data
    return len(data) == size or (len(data) > size and data == data[:size] * (len(data) // size))


def splat_attr(value: float | int | bool | complex, type: TensorType[Any]):
    """`dense<value>` of a tensor type; ValueError for an integer that the type does not hold."""
    element_type = cast(Attribute, type.element_type)
    if isinstance(value, int):
        _check_range(value, element_type)
    scalar = np.asarray(value).astype(numpy_dtype(element_type))
    stored = _to_storage(scalar.reshape(1), element_type)
    return DenseIntOrFPElementsAttr(type, BytesAttr(stored.tobytes()))


def _check_range(value: int, element_type: Attribute) -> None:
    if not isinstance(element_type, IntegerType):
        return
    integer = cast(IntegerType, element_type)
    width, is_signed = integer.width.data, integer.signedness.data is not Signedness.UNSIGNED
    least = -(1 << width - 1) if is_signed else 0
    if width > 1 and not 0 <= value - least < 1 << width:
        raise ValueError(f"{value} does not fit into {integer}")


# ---- text ----------------------------------------------------------------------------------------

_LITERAL_TOKEN = re.compile(r"[\[\](),]|[^\[\](),\s]+")


class LiteralError(ValueError):
    """A dense literal that does not fit its type."""


def _element_bits(text: str, element_type: Attribute) -> bytes:
    """The stored bytes of one literal."""
    if isinstance(element_type, IntegerType | IndexType):
        if text in ("true", "false"):
            if element_type != IntegerType(1):
                raise LiteralError(f"'{text}' is no value of {element_type}")
            value = int(text == "true")
        else:
            try:
                value = int(text, 0) if "x" in text or "X" in text else int(text)
            except ValueError:
                raise LiteralError(f"expected an integer of {element_type}, found '{text}'") from (
                    None
                )
        if isinstance(element_type, IntegerType):
            normal = element_type.normalized_value(value)
            if normal is None:
                raise LiteralError(f"{value} does not fit into {element_type}")
            value = normal
        return element_type.pack([value])
    if not isinstance(element_type, builtin.AnyFloat):
        raise LiteralError(f"no dense literal of element type {element_type}")
    size = element_type.compile_time_size
    if text[:2].lower() == "0x":
        bits = int(text, 16)
        if bits >> (8 * size):
            raise LiteralError(f"{text} has more bits than {element_type}")
        return bits.to_bytes(size, "little")
    try:
        value = float(text)
    except ValueError:
        raise LiteralError(f"expected a float of {element_type}, found '{text}'") from None
    try:
        dtype = numpy_dtype(element_type)
    except UnsupportedElementType:
        return element_type.pack([value])
    with np.errstate(over="ignore"):
        return np.float64(value).astype(dtype).tobytes()


def _hex_bytes(text: str, type: TensorType[Any]) -> bytes:
    """Elements from the hex string of a large constant."""
    element_type, count = type.element_type, prod(type.get_shape())
    try:
        data = bytes.fromhex(text.strip().strip('"')[2:])
    except ValueError:
        raise LiteralError("the hex string of the constant is malformed") from None
    if element_type == IntegerType(1) and len(data) != count and len(data) == (count + 7) // 8:
        # LLVM up to 21 packed booleans into bits
        if len(data) == 1 and data[0] in (0, 255):
            return data
        data = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[:count].tobytes()
    size = element_type.compile_time_size
    if len(data) not in (size, size * count):
        raise LiteralError(f"the hex string has {len(data)} bytes, but {type} has {size * count}")
    if isinstance(element_type, IntegerType):
        return _sign_extended(data, cast(IntegerType, element_type))
    return data


def _sign_extended(data: bytes, element_type: IntegerType) -> bytes:
    """Bytes of i4 and the like, which upstream's hex strings leave zero-extended."""
    width = element_type.width.data
    if width % 8 == 0:
        return data
    bits = np.frombuffer(data, np.uint8) & ((1 << width) - 1)
    if element_type.signedness.data is not Signedness.UNSIGNED:
        bits = np.left_shift(bits, 8 - width).view(np.int8) >> (8 - width)
    return bits.tobytes()


def parse_dense(body: str, type: TensorType[Any]) -> DenseIntOrFPElementsAttr:
    """The attribute of `dense<body> : type`; raises LiteralError."""
    shape, element_type = type.get_shape(), type.element_type
    if any(size < 0 for size in shape):
        raise LiteralError(f"a dense constant needs a static shape, not {type}")
    count = prod(shape)
    if body.lstrip().startswith('"'):
        return DenseIntOrFPElementsAttr(type, BytesAttr(_hex_bytes(body, type)))
    tokens = _LITERAL_TOKEN.findall(body)
    values: list[bytes] = []
    found_shape: dict[int, int] = {}
    position = 0

    def element() -> bytes:
        nonlocal position
        token = tokens[position]
        position += 1
        if not isinstance(element_type, ComplexType):
            return _element_bits(token, element_type)
        parts = tokens[position : position + 4]
        if token != "(" or len(parts) < 4 or parts[1] != "," or parts[3] != ")":
            raise LiteralError(f"expected a complex literal (a, b), found '{token}'")
        position += 4
        inner = cast(Attribute, cast(ComplexType, element_type).element_type)
        return _element_bits(parts[0], inner) + _element_bits(parts[2], inner)

    def nested(depth: int) -> None:
        nonlocal position
        if position >= len(tokens):
            raise LiteralError("the dense literal ends too early")
        if tokens[position] != "[":
            if found_shape.setdefault(-1, depth) != depth:
                raise LiteralError("the dense literal has inconsistent ranks")
            values.append(element())
            return
        position += 1
        length = 0
        while position < len(tokens) and tokens[position] != "]":
            nested(depth + 1)
            length += 1
            if position < len(tokens) and tokens[position] == ",":
                position += 1
        position += 1
        if found_shape.setdefault(depth, length) != length:
            raise LiteralError("the dense literal has rows of different lengths")

    if tokens:
        nested(0)
    if position != len(tokens):
        raise LiteralError("the dense literal has text after its end")
    rank = found_shape.pop(-1, len(found_shape))
    if not tokens:
        if count:
            raise LiteralError(f"dense<> has no elements, but {type} has {count}")
    elif rank > 0 or found_shape:
        found = tuple(found_shape[depth] for depth in sorted(found_shape))
        if found != shape and not (count == 0 and 0 in found):
            raise LiteralError(f"the dense literal has shape {list(found)}, its type is {type}")
    elif count == 0:
        values = []
    if len(values) > 1 and all(value == values[0] for value in values):
        values = values[:1]
    return DenseIntOrFPElementsAttr(type, BytesAttr(b"".join(values)))


def _element_text(raw: bytes, element_type: Attribute) -> str:
    if isinstance(element_type, ComplexType):
        half = len(raw) // 2
        inner = cast(Attribute, cast(ComplexType, element_type).element_type)
        return f"({_element_text(raw[:half], inner)},{_element_text(raw[half:], inner)})"
    if isinstance(element_type, IntegerType | IndexType):
        value = next(iter(element_type.iter_unpack(raw)))
        if element_type == IntegerType(1):
            return "true" if value else "false"
        return str(value)
    # six digits where they give the same bits, else the bits themselves
    try:
        dtype = numpy_dtype(element_type)
    except UnsupportedElementType:
        return f"0x{raw[::-1].hex().upper()}"
    with np.errstate(invalid="ignore"):
        value = float(np.frombuffer(raw, dtype)[0].astype(np.float64))
    if np.isfinite(value):
        for digits in (6, 8, 16):
            text = f"{value:.{digits}e}"
            with np.errstate(over="ignore"):
                if np.float64(text).astype(dtype).tobytes() == raw:
                    return text
    return f"0x{raw[::-1].hex().upper()}"


LARGE = 100
"""Constants with more elements are written as a hex string (as upstream does)."""


def dense_text(attr: DenseIntOrFPElementsAttr) -> str:
    """The literal inside `dense<…>`, exact to the bit."""
    element_type, shape = attr.get_element_type(), attr.get_shape()
    size, data = element_type.compile_time_size, attr.data.data
    if not data:
        return ""
    if is_splat(attr):
        return _element_text(data[:size], element_type)
    count = len(data) // size
    if count > LARGE:
        if isinstance(element_type, IntegerType) and (width := element_type.width.data) < 8:
            data = (np.frombuffer(data, np.uint8) & ((1 << width) - 1)).tobytes()
        return f'"0x{data.hex().upper()}"'
    texts = [_element_text(data[i : i + size], element_type) for i in range(0, len(data), size)]
    for length in reversed(shape):
        texts = [f"[{', '.join(texts[i : i + length])}]" for i in range(0, len(texts), length)]
    return texts[0]
