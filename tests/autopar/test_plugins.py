"""Plug-ins: rules and passes of third parties in every driver."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xdsl.passes import ModulePass

from autopar import cli, opt, passes, plugins
from autopar.passes import PASSES, PipelineError, load_pass, register_pass
from autopar.terminal import UsageError

PLUGIN = '''
from dataclasses import dataclass

from xdsl.dialects.builtin import StringAttr
from xdsl.passes import ModulePass

from autopar.dialects.rules import pointwise_rule, register_sharding_rule
from autopar.passes import register_pass

register_sharding_rule("mine.turn", pointwise_rule)


@register_pass
@dataclass(frozen=True)
class SignPass(ModulePass):
    """Signs the module."""

    name = "sign"
    by: str = "nobody"
    """Who signs."""

    def apply(self, ctx, op):
        op.attributes["mine.signed"] = StringAttr(self.by)
'''

TURN = """
sdy.mesh @mesh = <["x"=4]>
func.func @main(%a: tensor<8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"x"}]>}) -> tensor<8xf32> {
  %0 = "mine.turn"(%a) : (tensor<8xf32>) -> tensor<8xf32>
  return %0 : tensor<8xf32>
}
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "mine_for_autopar.py"
    path.write_text(PLUGIN)
    (tmp_path / "turn.mlir").write_text(TURN)
    monkeypatch.chdir(tmp_path)
    yield path
    _forget("sign")
    sys.modules.pop(path.stem, None)


def _forget(name: str) -> None:
    """What the plug-in registered, its pass by this name."""
    from autopar.dialects.rules import registry

    registry._RULES.pop("mine.turn", None)  # pyright: ignore[reportPrivateUsage]
    registry.clear_cache()
    PASSES.pop(name, None)
    passes._loaded.pop(name, None)  # pyright: ignore[reportPrivateUsage]


def test_autopar_opt(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["turn.mlir", f"--load={plugin}", "--sign=by=me", "--import-sdy"]
    assert opt.main([*options, "--sharding-propagation", "--shard-partition"]) == 0
    text, errors = capsys.readouterr()
    assert not errors
    assert 'mine.signed = "me"' in text
    assert '"mine.turn"' in text and "(tensor<2xf32>) -> tensor<2xf32>" in text
    assert opt.main([f"--load={plugin}", "--list-passes"]) == 0
    assert "--sign                         Signs the module." in capsys.readouterr().out


def test_autopar_run(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TURN.replace('"mine.turn"(%a) : (tensor<8xf32>) ->', "stablehlo.negate %a :")
    Path("negate.mlir").write_text(text)
    array = np.arange(8, dtype=np.float32)
    np.savez("in.npz", arg0=array)
    pipeline = (
        "sign{by=me},import-sdy,sharding-propagation,shard-partition,convert-shard-to-stablehlo"
    )
    files = ["--inputs", "in.npz", "--outputs", "out.npz", "--devices", "4"]
    command = ["run", "negate.mlir", *files, "--passes", pipeline]
    assert cli.main(command) == 1
    assert "unknown pass 'sign'" in capsys.readouterr().err
    assert cli.main([*command, "--load", str(plugin)]) == 0
    np.testing.assert_array_equal(np.load("out.npz")["out0"], -array)


@pytest.fixture
def twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A plug-in that two folders have, neither of which Python knows."""
    path = tmp_path / "twice_for_autopar.py"
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for file in (path, folder / path.name):
        file.write_text(PLUGIN.replace("sign", "twice"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield path
    _forget("twice")
    for name in set(sys.modules) - before:
        if "twice_for_autopar" in name:
            del sys.modules[name]


@pytest.mark.parametrize("first", ["elsewhere.twice_for_autopar", "elsewhere/twice_for_autopar.py"])
def test_a_plugin_is_loaded_once(first: str, twice: Path) -> None:
    """By its name below the working folder, by its file, by another spelling of that."""
    again = f"elsewhere/../elsewhere/{twice.name}"
    assert opt.main([f"--load={first}", f"--load={again}", "--list-passes"]) == 0
    made = load_pass("twice")
    assert opt.main(["--load=elsewhere.twice_for_autopar", "--list-passes"]) == 0
    plugins.load_plugin(f"elsewhere/{twice.name}")
    assert load_pass("twice") is made


def test_a_plugin_of_the_working_folder(twice: Path) -> None:
    plugins.load_plugin(twice.stem)
    assert load_pass("twice").__module__ == twice.stem


def test_another_plugin_of_the_same_names_is_an_error(
    twice: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins.load_plugin(str(twice))
    for _ in range(2):  # the first failure leaves nothing behind
        assert opt.main([f"--load=elsewhere/{twice.name}", "--list-passes"]) == 1
        told = capsys.readouterr().err
        assert "pass 'twice' is registered already, as twice_for_autopar:SignPass" in told


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.such.module", "cannot load no.such.module: ModuleNotFoundError: No module named 'no'"),
        ("nowhere.py", "cannot load nowhere.py: FileNotFoundError"),
    ],
)
def test_what_cannot_be_loaded(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        plugins.load_plugin(name)
    assert opt.main([f"--load={name}", "--list-passes"]) == 1
    assert message in capsys.readouterr().err


class Entry:
    """An installed plug-in."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name, self.value, self.error, self.loads = name, f"{name}.module", error, 0

    def load(self) -> None:
        self.loads += 1
        if self.error is not None:
            raise self.error


def test_installed_plugins(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [Entry("works"), Entry("broken", ImportError("no such thing"))]
    groups: list[str] = []

    def entry_points(group: str) -> Any:
        groups.append(group)
        return entries

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    plugins.load_installed_plugins.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, "autopar"):
            assert plugins.load_installed_plugins() == ("works",)
            assert plugins.load_installed_plugins() == ("works",)
    finally:
        plugins.load_installed_plugins.cache_clear()
    assert groups == ["autopar.plugins"] and [entry.loads for entry in entries] == [1, 1]
    assert "plug-in broken (broken.module) cannot be loaded: ImportError" in caplog.text


def test_a_name_that_is_taken() -> None:
    class Other(ModulePass):
        name = "cse"

    with pytest.raises(PipelineError, match=r"pass 'cse' is registered already, as autopar\."):
        register_pass(Other)
    assert register_pass(load_pass("cse")) is load_pass("cse")
