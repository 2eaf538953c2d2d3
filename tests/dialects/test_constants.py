"""Constants of one value."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import IntegerType, Signedness, TensorType

from autopar.dialects.constants import constant_array, splat_attr

I32, UI32, I4 = IntegerType(32), IntegerType(32, Signedness.UNSIGNED), IntegerType(4)


@pytest.mark.parametrize(
    ("value", "element"),
    [(2**31 - 1, I32), (-(2**31), I32), (2**32 - 1, UI32), (0, UI32), (7, I4), (-8, I4)],
)
def test_an_integer_that_fits(value: int, element: IntegerType) -> None:
    assert int(constant_array(splat_attr(value, TensorType(element, [2])))[1]) == value


@pytest.mark.parametrize(
    ("value", "element"),
    [(2**31, I32), (-(2**31) - 1, I32), (2**32, UI32), (-1, UI32), (8, I4), (-9, I4)],
)
def test_an_integer_that_does_not_fit(value: int, element: IntegerType) -> None:
    with pytest.raises(ValueError, match=f"{value} does not fit into {element}"):
        splat_attr(value, TensorType(element, [2]))
