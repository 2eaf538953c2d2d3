"""Facts about types of values."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import DYNAMIC_INDEX, IndexType, TensorType, f32

from autopar.dialects.tensors import num_bytes


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), 4), ((2, 3), 24), ((DYNAMIC_INDEX,), 0), ((DYNAMIC_INDEX, 2, DYNAMIC_INDEX), 0)],
)
def test_bytes_of_tensors(shape: tuple[int, ...], expected: int) -> None:
    assert num_bytes(TensorType(f32, shape)) == expected


def test_what_is_no_tensor_has_no_bytes() -> None:
    assert num_bytes(IndexType()) == 0
