"""The xdsl-opt plug-in offers our names and never one that another universe has."""

from __future__ import annotations

import importlib.metadata

import pytest
from xdsl.universe import XDSL_UNIVERSE, Universe

from autopar import universe
from autopar.passes import PASSES


def test_no_name_is_offered_twice() -> None:
    ours = universe.AUTOPAR_UNIVERSE
    assert not set(ours.all_dialects) & set(XDSL_UNIVERSE.all_dialects)
    assert not set(ours.all_passes) & set(XDSL_UNIVERSE.all_passes)
    assert {"stablehlo", "chlo", "autopar", "sdy", "mesh"} <= set(ours.all_dialects)
    assert set(ours.all_passes) | set(XDSL_UNIVERSE.all_passes) >= set(PASSES)
    assert ours.all_dialects["stablehlo"]().name == "stablehlo"
    assert ours.all_passes["inline"]().name == "inline"


def test_beside_another_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "xdsl_jax"

        def load(self) -> Universe:
            return Universe(all_dialects={"stablehlo": lambda: pytest.fail("not ours")})

    monkeypatch.setattr(universe, "entry_points", lambda group: [Entry()])
    assert importlib.metadata.entry_points is not universe.entry_points
    offered = universe._universe()  # pyright: ignore[reportPrivateUsage]
    assert "stablehlo" not in offered.all_dialects and "chlo" in offered.all_dialects
