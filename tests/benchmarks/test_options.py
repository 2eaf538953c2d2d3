"""What is misspelled on a benchmark's command line is one line, before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import cost, planning, plans, solver, spine

FOLDER = str(Path(__file__).parent)
WRONG: list[tuple[Callable[[], None], str, str]] = [
    (plans.main, "--memory loose", "--memory: 'loose' is unknown; known: device, tight"),
    (plans.main, "--models foo", "--models: 'foo': models/ has no 'foo' of several sizes"),
    (plans.main, "--models training", "models/ has no 'training' of several sizes"),
    (plans.main, "--models gpt-9Z", "--models: 'gpt-9Z': the sizes of gpt are nano, tiny"),
    (plans.main, "--grids ab", "--grids: grid=ab: expected sizes joined by x"),
    (plans.main, "--clusters foo", "--clusters: cluster foo: neither a file nor a preset"),
    (plans.main, "--grids 64x64", "grid 64x64 has 4096 devices"),
    (plans.main, "--layers -1", "--layers: expected a whole number of at least 0, found '-1'"),
    (plans.main, "--compiled --grids 8x8", "--grids 8x8: plans are compiled for 8 devices"),
    (plans.main, "--compiled --verbose", "--verbose is of modelled plans: leave it out"),
    (plans.main, "--measure --memory tight", "--memory: what runs is planned without a limit"),
    (plans.main, "--measure --compiled", "not allowed with argument --measure"),
    (planning.main, "--steps gpt-nano:q", "--steps: grid=q: expected sizes joined by x"),
    (planning.main, "--steps gpt-nano:64x64", "grid 64x64 has 4096 devices"),
    (cost.main, "--plans mlp", "--plans: 'mlp' is unknown; known: mlp-dp"),
    (spine.main, "--programs nope", "--programs: 'nope' is unknown; known: "),
    (solver.main, "/nonexistent", "/nonexistent: no folder of instances"),
    (solver.main, FOLDER, "no folder of instances, NAME.json or NAME.json.gz"),
]


def refused(
    main: Callable[[], None],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """The last line of what a script says before it exits."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *words.split()])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("main", "words", "message"), WRONG, ids=[words for _, words, _ in WRONG])
def test_wrong_words(
    main: Callable[[], None],
    words: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refused(main, words, monkeypatch, capsys)


def test_an_instance_that_there_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "A.json").touch()
    said = refused(solver.main, f"{tmp_path} nope", monkeypatch, capsys)
    assert said.endswith(f"{tmp_path} has no instance nope; it has A")
