"""The embedded runtime: which programs wait for their earlier runs."""

from __future__ import annotations

import pytest

from autopar.dialects.stablehlo.collectives import COLLECTIVES
from autopar.lowering.parse import parse_module
from autopar.runtime.embedded import has_collectives


@pytest.mark.parametrize("name", sorted(COLLECTIVES))
def test_a_program_with_one_collective_is_ordered(name: str) -> None:
    module = parse_module(
        """
        func.func @main(%a: tensor<2xf32>) -> tensor<2xf32> {
          %0 = stablehlo.negate %a : tensor<2xf32>
          return %0 : tensor<2xf32>
        }"""
    )
    assert not has_collectives(module)
    (op,) = [op for op in module.walk() if op.name == "stablehlo.negate"]
    op.name = name
    assert has_collectives(module)
