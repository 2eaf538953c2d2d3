"""FLOPs of convolutions against those that XLA's own analysis counts."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from autopar.dialects import make_context
from autopar.lowering.importer import import_module
from autopar.passes.cost.flops import flops_of
from autopar.passes.cost.loops import times_planned
from autopar.passes.manager import run_passes

FORMS: list[dict[str, Any]] = [
    {"window_strides": (1, 1), "padding": "SAME"},
    {"window_strides": (2, 3), "padding": "SAME"},
    {"window_strides": (1, 1), "padding": "VALID", "rhs_dilation": (2, 1)},
    {"window_strides": (1, 2), "padding": ((3, 0), (1, 4)), "lhs_dilation": (2, 3)},
    {"window_strides": (2, 2), "padding": "SAME", "feature_group_count": 4},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("argument", [None, 0, 1])
def test_convolutions_count_what_meets_an_element(
    form: dict[str, Any], argument: int | None
) -> None:
    """`argument`: by which it is differentiated; its linear part is one convolution."""
    groups = form.get("feature_group_count", 1)
    x = jax.ShapeDtypeStruct((2, 8, 11, 13), jnp.float32)
    k = jax.ShapeDtypeStruct((12, 8 // groups, 3, 5), jnp.float32)

    def convolution(x: Any, k: Any) -> Any:
        return jax.lax.conv_general_dilated(x, k, **form)

    def gradient(x: Any, k: Any, of: Any) -> Any:
        linear = (lambda k: convolution(x, k)) if argument else (lambda x: convolution(x, k))
        return jax.linear_transpose(linear, k if argument else x)(of)

    out = jax.eval_shape(convolution, x, k)
    lowered = (
        jax.jit(convolution).lower(x, k) if argument is None else jax.jit(gradient).lower(x, k, out)
    )
    ours = flops_of(import_module(lowered.compiler_ir("stablehlo")))
    theirs = lowered.cost_analysis()
    assert theirs is not None
    assert ours == theirs["flops"] > 0


@pytest.mark.parametrize("trips", [0, 1, 5])
def test_loops_count_by_their_trips(trips: int) -> None:
    """Also those that never run, though a plan prices them as if they did once: what it may not do
    is infinitely dear, and no times infinite is no number."""

    def step(w: Any, x: Any) -> Any:
        def body(state: Any) -> Any:
            return state[0] + 1, jnp.tanh(state[1] @ w)

        return jax.lax.while_loop(lambda state: state[0] < trips, body, (0, x))[1]

    square = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    module = import_module(jax.jit(step).lower(square, square).compiler_ir("stablehlo"))
    run_passes(module, ("inline",), make_context())
    assert flops_of(module) == trips * 2 * 64**3
    dots = [op for op in module.walk() if op.name == "stablehlo.dot_general"]
    assert [times_planned(op) for op in dots] == [max(1, trips)]
