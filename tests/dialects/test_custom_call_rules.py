"""Rules of JAX's linear algebra targets, against the `sdy.sharding_rule` that JAX writes on them.

Programs from elsewhere call the same targets without it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from xdsl.ir import Operation

from autopar.dialects.rules.access import string
from autopar.dialects.rules.custom_call import LAPACK, SOLVERS, TRIDIAGONAL
from autopar.dialects.rules.registry import get_rule
from autopar.lowering.importer import import_module

SQUARE = jax.ShapeDtypeStruct((4, 8, 8), jnp.float32)
COMPLEX = jax.ShapeDtypeStruct((4, 8, 8), jnp.complex64)
TALL = jax.ShapeDtypeStruct((4, 8, 6), jnp.float32)
SCALES = jax.ShapeDtypeStruct((4, 6), jnp.float32)
DIAGONAL = jax.ShapeDtypeStruct((4, 8), jnp.float32)

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
    "pivoted qr": (lambda a: lax.linalg.qr(a, pivoting=True), TALL, ("cpu", "cuda")),
    "reflectors": (lax.linalg.ormqr, (TALL, SCALES, TALL), ("cpu", "cuda")),
    "tridiagonal solve": (
        lax.linalg.tridiagonal_solve,
        (DIAGONAL, DIAGONAL, DIAGONAL, TALL),
        ("cpu", "cuda"),
    ),
    "tridiagonal solve, perturbed": (
        partial(lax.linalg.tridiagonal_solve, perturb_singular=True),
        (DIAGONAL, DIAGONAL, DIAGONAL, TALL),
        ("cpu", "cuda"),
    ),
    "pivots": (
        lambda a: lax.linalg.lu_pivots_to_permutation(lax.linalg.lu(a)[1], 8),
        SQUARE,
        ("cuda",),
    ),
}
"""A function, what it takes, and the platforms whose custom_calls JAX writes rules on."""
PLATFORMS = [(name, platform) for name, case in CASES.items() for platform in case[2]]


def _calls(name: str, platform: str) -> list[Operation]:
    function, given, _ = CASES[name]
    arguments = given if isinstance(given, tuple) else (given,)
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,))
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


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_targets_are_spelled_as_jax_spells_them(platform: str) -> None:
    pairs = [pair for pair in PLATFORMS if pair[1] == platform]
    targets = {string(op, "call_target_name") for pair in pairs for op in _calls(*pair)}
    assert len(targets) > 10
    assert targets <= {*LAPACK, *SOLVERS, *TRIDIAGONAL, "cu_lu_pivots_to_permutation"}
