"""Sizes in words."""

import pytest

from autopar.passes.planning.words import size_text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (512, "512 bytes"),
        (4.375 * 2**20, "4.38 MiB"),
        (1020 * 2**20, "0.996 GiB"),
        (80e9, "74.5 GiB"),
        (-3 * 2**40, "-3 TiB"),
    ],
)
def test_sizes_have_three_digits(num_bytes: float, text: str) -> None:
    assert size_text(num_bytes) == text
