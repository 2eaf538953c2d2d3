"""The rules of CONTRIBUTING.md: who imports whom, one name in four places."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from autopar.dialects import DIALECTS, all_dialects
from autopar.passes import PASSES, load_pass
from autopar.passes.manager import option_help

from .docstrings import own_docstring

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("dialects", "passes", "lowering", "runtime", "autopar")
"""Each may import itself and those before it."""
USERS = ("models", "benchmarks", "examples")
PACKAGED = [f"autopar/{layer}" for layer in LAYERS[:-1]]


def python_files(*folders: str) -> Iterator[Path]:
    """Real paths of the Python files under folders of the root (links are not followed)."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not any(part.is_symlink() for part in path.parents):
                yield path


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of each import, relative ones made absolute, `if TYPE_CHECKING` included; of
    autopar itself, jax and jaxlib also what is imported from the module."""
    relative = path.relative_to(ROOT)
    package = [*relative.parts[:-1]]
    if package[0] in LAYERS[:-1]:
        package = ["autopar", *package]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            if not node.module or module.split(".")[0] in ("jax", "jaxlib") or module == "autopar":
                for alias in node.names:
                    yield node.lineno, f"{module}.{alias.name}"
            else:
                yield node.lineno, module


def layer_of(module: str) -> str | None:
    """The layer that a module belongs to, None for what is not ours."""
    parts = module.split(".")
    if parts[0] != "autopar":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "autopar"


@pytest.mark.parametrize("layer", LAYERS)
def test_dependence_runs_one_way(layer: str) -> None:
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files(layer)
        for line, module in imports(path)
        if layer_of(module) not in (None, *allowed)
    ]
    assert not wrong, "\n".join(wrong)


PHASES = (
    "cost", "solver", "cleanup", "importing", "sharding", "partition", "planning", "pipelining",
)  # fmt: skip
"""The folders of passes/: each may import itself, those before it, and the modules beside them."""


@pytest.mark.parametrize("phase", PHASES)
def test_phases_depend_one_way(phase: str) -> None:
    later = PHASES[PHASES.index(phase) + 1 :]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files(f"passes/{phase}")
        for line, module in imports(path)
        if module.startswith("autopar.passes.") and module.split(".")[2] in later
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("phase", ["cost", "planning"])
def test_every_module_of_a_large_phase_is_listed(phase: str) -> None:
    """In the docstring of the package, where a reader looks for what is where."""
    folder = ROOT / "passes" / phase
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    modules = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"^- (\w+\.py): ", text, re.MULTILINE)) == modules


def test_every_phase_has_a_place() -> None:
    assert {path.parent.name for path in (ROOT / "passes").glob("*/__init__.py")} == set(PHASES)


def test_ours_is_never_imported_by_its_folder() -> None:
    """`import dialects` would make a second copy of `autopar.dialects`."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files(*LAYERS, *USERS, "tests", "tools")
        for line, module in imports(path)
        if module.split(".")[0] in LAYERS[:-1]
    ]
    assert not wrong, "\n".join(wrong)


def test_dialects_and_passes_never_import_jax_or_ray() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files("dialects", "passes")
        for line, module in imports(path)
        if module.split(".")[0] in ("jax", "jaxlib", "ray", "flax", "optax")
    ]
    assert not wrong, "\n".join(wrong)


PRIVATE = {
    ROOT / "lowering" / "jax_compat": ("jax", "jaxlib"),
    ROOT / "lowering" / "mlir_context.py": ("jaxlib.mlir._mlir_libs._jax_mlir_ext",),
}
"""What file or folder may import which private interfaces; mlir_context has to do without JAX."""


def test_one_package_touches_jax_private_interfaces() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files(*LAYERS, *USERS)
        for line, module in imports(path)
        if re.match(r"(jax|jaxlib)\..*\b_|jaxlib\.xla_client", module)
        and not module.startswith(PRIVATE.get(path, PRIVATE.get(path.parent, ())))
    ]
    assert not wrong, "\n".join(wrong)


def test_relative_imports_stay_near() -> None:
    """`.x` and `..x` inside a layer; the names of other phases and layers are written out."""
    wrong: list[str] = []
    for path in python_files(*LAYERS):
        folder = path.relative_to(ROOT).parts[:-1]
        package = ".".join(folder if folder[0] == "autopar" else ("autopar", *folder))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                own = package != "autopar" and f"{node.module}.".startswith(f"{package}.")
                if node.level > min(2, len(folder)) or (own and not node.level):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def test_users_see_the_public_face_only() -> None:
    """Models and examples are written as users write them."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files("models", "examples")
        for line, module in imports(path)
        if layer_of(module) not in (None, "autopar")
        or (layer_of(module) == "autopar" and module.count(".") > 1)
    ]
    assert not wrong, "\n".join(wrong)


# ---- packaging -----------------------------------------------------------------------------------


def test_each_layer_is_linked_packaged_and_type_checked() -> None:
    """pyright finds nothing wrong in what `include` leaves out."""
    links = sorted(f"autopar/{p.name}" for p in (ROOT / "autopar").iterdir() if p.is_symlink())
    assert links == sorted(PACKAGED)
    for link in links:
        assert os.readlink(ROOT / link) == f"../{Path(link).name}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(links) <= set(project["tool"]["pyright"]["include"])
    assert "autopar" in project["tool"]["pyright"]["include"]
    assert project["tool"]["pyright"]["typeCheckingMode"] == "strict"


def test_every_folder_is_a_package() -> None:
    """A folder without __init__.py is left out of the wheel, silently."""
    folders = {path.parent for path in python_files(*LAYERS)}
    missing = [f.relative_to(ROOT) for f in sorted(folders) if not (f / "__init__.py").exists()]
    assert not missing


# ---- starting fast -------------------------------------------------------------------------------


def test_importing_the_passes_is_light() -> None:
    """Neither JAX nor Ray, and under 0.3 s: another compiler's command line pays for it."""
    code = (
        "import sys, time; start = time.perf_counter(); "
        "import autopar.passes, autopar.passes.manager; "
        "print(time.perf_counter() - start); "
        "assert not {'jax', 'jaxlib', 'ray', 'ortools'} & set(sys.modules)"
    )
    seconds: list[float] = []
    for _ in range(5):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.returncode == 0, done.stderr
        seconds.append(float(done.stdout))
    assert min(seconds) < 0.3


def test_passes_and_rules_load_without_jax() -> None:
    """All passes and all rules load where JAX, jaxlib and Ray cannot be imported."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('jax', 'jaxlib', 'ray'))); "
        "from autopar.passes import PASSES, load_pass; "
        "from autopar.dialects import all_dialects; "
        "from autopar.dialects.rules.registry import load_families; "
        "load_families(); "
        "[load() for load in all_dialects().values()]; "
        "[load_pass(name) for name in PASSES]"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr


# ---- one name, four places -----------------------------------------------------------------------


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-")) + "Pass"


@pytest.mark.parametrize("name", sorted(PASSES))
def test_one_name_four_places(name: str) -> None:
    """Pass `a-b` = passes/<phase>/a_b.py = class ABPass = lit_tests/passes/<phase>/a_b.mlir."""
    module, _, class_name = PASSES[name].partition(":")
    assert class_name == _camel(name)
    file = name.replace("-", "_")
    assert module.endswith(f".{file}")
    phase = module.split(".")[2]
    assert (ROOT / "passes" / phase / f"{file}.py").exists()
    test = ROOT / "lit_tests" / "passes" / phase / f"{file}.mlir"
    assert test.exists(), f"{test.relative_to(ROOT)} is missing"
    assert f"--{name}" in test.read_text()
    cls = load_pass(name)
    assert cls.name == name and cls.__module__ == module


def test_passes_are_listed_in_order() -> None:
    ours = [name for name, target in PASSES.items() if target.startswith("autopar.")]
    assert ours == sorted(ours)


def test_every_pass_file_is_registered() -> None:
    """A class at the top of a file in passes/ whose name ends in Pass has a line in PASSES."""
    registered = {target.partition(":")[2] for target in PASSES.values()}
    found = {
        node.name
        for path in python_files("passes")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Pass")
    }
    assert found == registered


@pytest.mark.parametrize("name", sorted(PASSES))
def test_every_pass_is_documented(name: str) -> None:
    """Line 1 is a summary, the rest says what the pass needs and guarantees; each option has a
    string below it, which --help and docs/passes.md show."""
    cls = load_pass(name)
    document = (cls.__doc__ or "").strip()
    summary = document.partition("\n")[0]
    assert summary.endswith("."), f"summary: {summary!r}"
    assert re.search(r"\bNeeds: ", document), "what does it need?"
    assert re.search(r"\bGuarantees: ", document), "what does it guarantee?"
    bare = {field.name for field in dataclasses.fields(cls)} - option_help(cls).keys()
    assert not bare, f"no string below {', '.join(sorted(bare))}: what does it mean?"


OURS = [name for name, factory in DIALECTS.items() if factory.startswith("autopar.")]


@pytest.mark.parametrize("name", OURS)
def test_every_op_has_a_docstring(name: str) -> None:
    dialect = all_dialects()[name]()
    bare = [
        thing.name
        for thing in (*dialect.operations, *dialect.attributes)
        if thing.__module__.startswith("autopar.") and not own_docstring(thing)
    ]
    assert not bare, f"no docstring: {', '.join(bare)}"
