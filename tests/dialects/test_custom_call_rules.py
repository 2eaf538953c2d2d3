"""Rules of JAX's linear algebra targets, against the `sdy.sharding_rule` that JAX writes on them.

Programs from elsewhere call the same targets without it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from xdsl.ir import Operation

from autopar.dialects.rules.access import string
from autopar.dialects.rules.custom_call import LAPACK
from autopar.dialects.rules.registry import get_rule
from autopar.lowering.importer import import_module

SQUARE = jax.ShapeDtypeStruct((4, 8, 8), jnp.float32)
COMPLEX = jax.ShapeDtypeStruct((4, 8, 8), jnp.complex64)
TALL = jax.ShapeDtypeStruct((4, 8, 6), jnp.float32)

CASES: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "cholesky": (jnp.linalg.cholesky, SQUARE, ("cpu", "cuda")),
    "lu": (lax.linalg.lu, SQUARE, ("cpu", "cuda")),
    "qr": (jnp.linalg.qr, TALL, ("cpu", "cuda")),
    "eigh": (jnp.linalg.eigh, COMPLEX, ("cpu", "cuda")),
    "svd": (jnp.linalg.svd, TALL, ("cpu", "cuda")),
    "eig": (jnp.linalg.eig, SQUARE, ("cpu", "cuda")),
    "schur": (lax.linalg.schur, SQUARE, ("cpu",)),
    "hessenberg": (lax.linalg.hessenberg, SQUARE, ("cpu",)),
    "tridiagonal": (lax.linalg.tridiagonal, SQUARE, ("cpu", "cuda")),
    "solve": (lambda a: lax.linalg.triangular_solve(a, a), SQUARE, ("cpu",)),
}
PLATFORMS = [(name, platform) for name, case in CASES.items() for platform in case[2]]


def _calls(name: str, platform: str) -> list[Operation]:
    function, argument, _ = CASES[name]
    lowered = jax.jit(function).trace(argument).lower(lowering_platforms=(platform,))
    module = import_module(lowered.compiler_ir("stablehlo"))
    return [op for op in module.walk() if "sdy.sharding_rule" in op.attributes]


@pytest.mark.parametrize(("name", "platform"), PLATFORMS)
def test_rule_is_the_one_that_jax_writes(name: str, platform: str) -> None:
    calls = _calls(name, platform)
    assert calls
    for op in calls:
        written = get_rule(op)
        del op.attributes["sdy.sharding_rule"]
        ours = get_rule(op)
        assert written is not None and ours is not None
        assert (ours.operands, ours.results) == (written.operands, written.results)
        assert ours.factor_sizes == written.factor_sizes


def test_targets_are_spelled_as_jax_spells_them() -> None:
    targets = {string(op, "call_target_name") for name in CASES for op in _calls(name, "cpu")}
    assert len(targets) > 10
    assert targets <= set(LAPACK)
