"""Output files: whole or not at all, and nothing that is no file is ever replaced."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import IO

import pytest

from autopar.files import output_path, write_whole
from autopar.terminal import UsageError


def hello(file: IO[bytes]) -> None:
    file.write(b"hello")


def test_a_link_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to("target")
    for _ in ("made", "replaced"):
        write_whole(output_path(str(link)), hello)
        assert link.is_symlink() and target.read_bytes() == b"hello"
        target.write_bytes(b"old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_whole(output_path(str(pipe)), hello)
    reader.join(10)
    assert found == [b"hello"]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file: IO[bytes]) -> None:
        hello(file)
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match=r"cannot write .*file: No space left on device"):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("no/where")
    for name, message in (
        (str(tmp_path), "it is a folder"),
        (str(tmp_path / "no" / "file"), "there is no folder"),
        (str(tmp_path / "loop"), "there is no folder"),
    ):
        with pytest.raises(UsageError, match=message):
            output_path(name)
