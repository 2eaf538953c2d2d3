"""The documentation is what the code says: generated pages fresh, snippets run, links resolve.

In the pages, `<!-- file: NAME -->` before a block writes it to a file of that name, and
`<!-- needs: TOOL -->` runs it only where the tool is installed. Python blocks of a page are one
program, run after the shell blocks before them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ("passes.md", "dialects.md", "cli.md")
PAGES = sorted(p.name for p in (ROOT / "docs").glob("*.md") if p.name not in GENERATED)
BLOCK = re.compile(r"(?:^<!-- (file|needs): (.+?) -->\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    language: str
    text: str
    note: str = ""
    value: str = ""


def blocks(page: str) -> list[Block]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [Block(m[3], m[4], m[1] or "", m[2] or "") for m in BLOCK.finditer(text)]


def test_generated_pages_are_fresh() -> None:
    spec = importlib.util.spec_from_file_location("gen_docs", ROOT / "tools" / "gen_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(["--check"]) == 0


@pytest.mark.parametrize("page", PAGES)
def test_snippets_run(page: str, tmp_path: Path) -> None:
    found = blocks(page)
    commands(tmp_path / "bin")
    python = ""
    for block in found:
        if block.note == "file":
            path = tmp_path / block.value
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.note == "needs" and shutil.which(block.value) is None:
            continue
        elif block.language == "sh":
            run(["bash", "-euo", "pipefail", "-c", block.text], tmp_path)
        elif block.language == "python":
            python += block.text
    if python:
        run([sys.executable, "-c", python], tmp_path)


def commands(folder: Path) -> None:
    """`autopar` and `autopar-opt` of this checkout, installed or not."""
    folder.mkdir()
    for name, module in (("autopar", "autopar.cli"), ("autopar-opt", "autopar.opt")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        script.chmod(0o755)
    if not any(e.name == "autopar" for e in importlib.metadata.entry_points(group="xdsl.universe")):
        info = folder / "autopar_plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: autopar-plugin\nVersion: 1\n")
        target = "autopar.universe:AUTOPAR_UNIVERSE"
        (info / "entry_points.txt").write_text(f"[xdsl.universe]\nautopar = {target}\n")


def run(command: list[str], folder: Path) -> None:
    """Runs a snippet in a fresh folder, as a user would: no flags of the tests' own process."""
    path = [str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {
        **{k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder / "bin")]),
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, check=False, cwd=folder,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


MARKDOWN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{page.name}: {target}"


PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)*(?:/|\.(?:py|md|toml|mlir|sh)))`")
"""What is written as a path: `folder/`, `folder/file.py`, `file.md`."""


WRITTEN = [page for page in MARKDOWN if page.name not in GENERATED] + [ROOT / "SECURITY.md"]
PLACES = [
    f"/{path.relative_to(ROOT).as_posix()}{'/' if path.is_dir() else ''}"
    for top in ROOT.glob("[!.]*")
    for path in (top, *top.rglob("*"))
]
"""What this repository holds: `/folder/`, `/folder/file.py`."""


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_paths_exist(page: Path) -> None:
    """Every file and folder that a page names is there, from the root or from any folder."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    missing = [
        path
        for path in PATH.findall(text)
        if not any(place.endswith(f"/{path}") for place in PLACES)
    ]
    assert not missing, f"{page.name} names what does not exist: {', '.join(missing)}"
