"""Losses and gradients are those of the papers' formulas in plain NumPy."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from .reference import LOSSES, wide_resnet_statistics
from .tiny import MODELS, Tiny, quickly, tiny


def loss_of(case: Tiny, state: Any) -> Any:
    """The model's loss as a function of its parameters."""

    def loss(params: Any) -> Any:
        if "batch_stats" in state:
            return case.module.loss(case.config, params, case.batch, state["batch_stats"])[0]
        return case.module.loss(case.config, params, case.batch)

    return loss


def double(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, tree)


@pytest.mark.parametrize("model", MODELS)
def test_loss_and_gradient(model: str) -> None:
    """Gradient entries against central differences of the NumPy loss, the largest entry of every
    fifth parameter."""
    case = tiny(model)
    value, grads = quickly(jax.value_and_grad(loss_of(case, case.state)))(case.state["params"])
    state, batch = double(case.state), double(case.batch)
    np.testing.assert_allclose(value, LOSSES[model](case.config, state, batch), rtol=1e-5)

    found = list(zip(jax.tree.leaves(grads), jax.tree.leaves(state["params"]), strict=True))
    scale = max(np.abs(grad).max() for grad, _ in found)
    for grad, leaf in found[:: max(1, len(found) // 6)]:
        place = np.unravel_index(np.abs(grad).argmax(), grad.shape)
        start, losses = leaf[place], []
        for moved in (start + 1e-6, start - 1e-6):
            leaf[place] = moved
            losses.append(LOSSES[model](case.config, state, batch))
        leaf[place] = start
        slope = (losses[0] - losses[1]) / 2e-6
        np.testing.assert_allclose(grad[place], slope, rtol=1e-3, atol=1e-5 * scale)


def test_running_statistics() -> None:
    case = tiny("wide_resnet")
    before = case.state["batch_stats"]
    _, after = quickly(lambda *args: case.module.loss(case.config, *args))(
        case.state["params"], case.batch, before
    )
    _, seen = wide_resnet_statistics(case.config, double(case.state), double(case.batch))
    wanted = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, before, seen)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after, wanted)


def test_experts_overflow() -> None:
    """A capacity that drops many tokens, and groups of two sequences."""
    case = tiny("moe")
    config = dataclasses.replace(case.config, capacity_factor=0.5)
    value = quickly(loss_of(case._replace(config=config), case.state))(case.state["params"])
    wanted = LOSSES["moe"](config, double(case.state), double(case.batch))
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert abs(wanted - LOSSES["moe"](case.config, double(case.state), double(case.batch))) > 1e-4


def test_top_two_weights_sum_to_one() -> None:
    from models.moe import route

    scores = np.random.default_rng(0).standard_normal((2, 16, 4), np.float32)
    scores[0, 0] = [0, 0, 200, 0]  # every other gate is zero
    combine, _ = route(jax.numpy.asarray(scores), 16)
    np.testing.assert_allclose(combine.sum((2, 3)), 1, rtol=1e-6)
    assert ((combine > 0).sum((1,)) <= 1).all()  # one token a place
    dropped, _ = route(jax.numpy.asarray(scores), 2)
    assert (np.asarray(dropped).sum((2, 3)) < 0.5).any()
    np.testing.assert_array_equal(dropped, combine[..., :2])


def test_groups_divide_the_batch() -> None:
    from models import moe

    config = dataclasses.replace(moe.SIZES["tiny"], group_size=12)
    with pytest.raises(ValueError, match="128 tokens cannot be split into groups of 12"):
        jax.eval_shape(moe.make_train_step(config, None), tiny("moe").state, tiny("moe").batch)


@pytest.mark.parametrize("model", ["gpt", "bert", "moe", "vit"])
def test_remat(model: str) -> None:
    """The backward phase computes again, and the parameters have the same names."""
    case = tiny(model)
    again = case._replace(config=dataclasses.replace(case.config, remat=True))
    losses = [loss_of(c, case.state) for c in (case, again)]
    jaxprs = [str(jax.make_jaxpr(jax.grad(loss))(case.state["params"])) for loss in losses]
    assert "remat" not in jaxprs[0] and "remat" in jaxprs[1]
    shapes = [
        jax.tree.map(np.shape, jax.eval_shape(jax.grad(f), case.state["params"])) for f in losses
    ]
    assert shapes[0] == shapes[1]
