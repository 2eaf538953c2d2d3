"""`autopar-opt`: read MLIR, run passes in the order given, print MLIR.

    autopar-opt FILE|- [--pass[="option=value …"]] …
    autopar-opt FILE --pass-pipeline='builtin.module(pass{option=value},…)'
    autopar-opt FILE -p 'pass{option=value},pass'

JAX is not imported: jaxlib's parser is used where it is installed, xDSL's otherwise.
"""

from __future__ import annotations

import io
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, TextIO

from .passes import PASSES, load_pass
from .reading import first_line, read_input, transform, unforeseen
from .terminal import (
    OUT_OF_MEMORY,
    UsageError,
    passes_shown,
    silence_stdout,
    write_error,
    write_stdout,
)

if TYPE_CHECKING:
    from xdsl.context import Context
    from xdsl.dialects.builtin import ModuleOp
    from xdsl.passes import ModulePass

    from .dialects.diagnostics import Diagnostic
    from .dump import Dump
    from .passes.manager import PassSpec

FLAGS: dict[str, str] = {
    "split-input-file": "treat the parts between '// -----' lines as separate modules",
    "verify-diagnostics": "check 'expected-error@±N {{text}}' (and remark, warning, note) comments",
    "mlir-print-ir-after-all": "print the IR after each pass to standard error",
    "mlir-print-op-generic": "print operations in generic form",
    "mlir-print-debuginfo": "print source locations",
    "mlir-timing": "print the time of each step to standard error",
    "allow-unregistered-dialect": "accepted; unknown operations always pass through",
    "remarks": "print what the passes have to say to standard error",
    "list-passes": "list the passes and exit",
    "version": "print the version and exit",
    "help": "print this text and exit",
}
ALIASES = {
    "print-ir-after-all": "mlir-print-ir-after-all",
    "print-op-generic": "mlir-print-op-generic",
    "print-debuginfo": "mlir-print-debuginfo",
    "timing": "mlir-timing",
    "h": "help",
}
_SPLIT = re.compile(r"^// -----.*$\n?", re.MULTILINE)


@dataclass
class Options:
    """A parsed command line."""

    files: list[str] = field(default_factory=list[str])
    output: str = "-"
    specs: list[PassSpec] = field(default_factory=list["PassSpec"])
    flags: set[str] = field(default_factory=set[str])


def parse_arguments(arguments: Sequence[str]) -> Options:
    """The command line, passes in their order; UsageError or PipelineError if it is wrong.

    `--load` acts at once: the options behind it know the passes that it brings.
    """
    from .passes.manager import PassSpec, parse_options, parse_pipeline

    options = Options()
    rest = list(arguments)

    def value_of(name: str, value: str | None) -> str:
        if value is not None:
            return value
        if not rest:
            raise UsageError(f"option '{name}' needs a value")
        return rest.pop(0)

    while rest:
        argument = rest.pop(0)
        if argument == "-" or not argument.startswith("-"):
            options.files.append(argument)
            continue
        name, equals, text = argument.lstrip("-").partition("=")
        value = text if equals else None
        name = ALIASES.get(name, name)
        if name == "load":
            from .plugins import load_plugin

            load_plugin(value_of(argument, value))
        elif name in ("o", "output"):
            options.output = value_of(argument, value)
        elif name in ("p", "passes", "pass-pipeline"):
            options.specs += parse_pipeline(value_of(argument, value))
        elif name in FLAGS:
            if value is None or value in ("true", "1"):
                options.flags.add(name)
            elif value not in ("false", "0"):
                raise UsageError(f"option '--{name}' takes true or false, found '{value}'")
        elif name in PASSES:
            options.specs.append(PassSpec(name, parse_options(value or "")))
        else:
            import difflib

            close = difflib.get_close_matches(name, [*PASSES, *FLAGS, *ALIASES], n=1)
            hint = f"; did you mean '--{close[0]}'?" if close else "; see --help"
            raise UsageError(f"unknown option or pass '{argument}'{hint}")
    if len(options.files) > 1:
        raise UsageError(f"expected one input file, found {', '.join(options.files)}")
    return options


# ---- informing options ---------------------------------------------------------------------------


def _summary(name: str) -> str:

    return (load_pass(name).__doc__ or "").strip().partition("\n")[0]


def list_passes() -> str:
    """Every pass with its summary and options."""
    import dataclasses

    from .passes.manager import option_default, option_help, option_types

    lines: list[str] = []
    for name in sorted(PASSES):
        lines.append(f"  --{name:28} {_summary(name)}")
        options = dataclasses.fields(load_pass(name))
        meanings = option_help(load_pass(name)) if options else {}
        kinds = option_types(load_pass(name)) if options else {}
        for option in options:
            text = f"      {option.name.replace('_', '-')}: {kinds[option.name]}"
            if default := option_default(option):
                text += f" = {default}"
            meaning = meanings.get(option.name)
            lines.append(f"{text}  {meaning}" if meaning else text)
    return "\n".join(lines) + "\n"


DESCRIPTION = (
    "Reads MLIR (StableHLO, chlo, sdy, mpmd, func, arith, shard, mesh, tosa, linalg), runs passes "
    "in the order given, and prints the module."
)
OPTIONS: dict[str, str] = {
    "-o FILE": "write to FILE instead of standard output",
    "-p PIPELINE": "run a pipeline, pass{option=value},pass",
    "--load=MODULE": "import a plug-in (dotted name or .py file) before the options behind it",
    "--pass-pipeline=PIPELINE": "run a pipeline, builtin.module(pass{option=value},pass)",
}
"""The options that take a value."""


def help_text() -> str:
    """The text of --help."""
    import textwrap

    lines = [
        "usage: autopar-opt FILE|- [options] [passes]",
        "",
        *textwrap.wrap(DESCRIPTION, 90),
        "",
        "options:",
    ]
    lines += [f"  {name:30} {text}" for name, text in OPTIONS.items()]
    lines += [f"  --{name:28} {text}" for name, text in FLAGS.items()]
    lines += [
        "  aliases: " + ", ".join(f"--{a} = --{b}" for a, b in ALIASES.items() if len(a) > 1),
        "",
        'passes, as --pass or --pass="option=value option=value":',
    ]
    return "\n".join(lines) + "\n" + list_passes()


def version_text() -> str:
    """autopar's version and those of what it stands on."""
    from importlib.metadata import PackageNotFoundError, version

    parts: list[str] = []
    for package in ("autopar", "xdsl", "jaxlib"):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            parts.append(f"{package} (not installed)")
    return "autopar-opt: " + ", ".join(parts) + "\n"


# ---- one module ----------------------------------------------------------------------------------


@dataclass
class Timer:
    """Seconds by step."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])
    start: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.start
        self.start = now

    def report(self) -> str:
        total = sum(self.seconds.values())
        lines = [
            "===" + "-" * 73 + "===",
            "  autopar-opt: execution time report",
            f"  Total: {total:.4f} s",
        ]
        for name, seconds in self.seconds.items():
            share = 100 * seconds / total if total else 0.0
            lines.append(f"  {seconds:9.4f} s ({share:5.1f}%)  {name}")
        return "\n".join(lines) + "\n"


def process(
    text: str,
    filename: str,
    passes: Sequence[ModulePass],
    flags: set[str],
    context: Context,
    timer: Timer,
) -> str:
    """Parse, transform and print one module; DiagnosticError if something is wrong."""
    from .lowering.parse import parse_module
    from .lowering.print import print_module

    generic, locations = "mlir-print-op-generic" in flags, "mlir-print-debuginfo" in flags
    with unforeseen(first_line(filename), "reading"):
        module = parse_module(text, filename, context)
    timer.lap("parse")
    dump: Dump | None = None
    if os.environ.get("AUTOPAR_DUMP_DIR"):
        from .dump import Dump

        dump = Dump(module, context)
        dump.write("input", module)

    def after(pass_: ModulePass, module: ModuleOp) -> None:
        timer.lap(pass_.name)
        if "mlir-print-ir-after-all" in flags:
            shown = print_module(
                module, context, generic=generic, locations=locations, verify=False
            )
            name = type(pass_).__name__.removesuffix("Pass")
            title = f"IR Dump After {name} ({pass_.name})"
            sys.stderr.write(f"// -----// {title} //----- //\n{shown}\n")
        if dump is not None:
            dump.write(pass_.name, module)
        if dump is not None or "mlir-print-ir-after-all" in flags:
            timer.lap("print")

    transform(module, passes, context, after)
    with unforeseen(module, "printing"):
        result = print_module(module, context, generic=generic, locations=locations)
    timer.lap("print")
    return result


def run(options: Options, text: str, filename: str, errors: TextIO) -> tuple[str, bool]:
    """The output for a whole input and whether all went well."""
    from .dialects.diagnostics import working_on

    with working_on(filename):
        return _run(options, text, filename, errors)


def _run(options: Options, text: str, filename: str, errors: TextIO) -> tuple[str, bool]:
    from .dialects import make_context
    from .dialects.diagnostics import DiagnosticError, collect_remarks
    from .passes.manager import build_pipeline

    passes = build_pipeline(options.specs)
    context = make_context()
    timer = Timer()
    outputs: list[str] = []
    success = True
    verify = "verify-diagnostics" in options.flags
    for chunk in _chunks(text, "split-input-file" in options.flags):
        found: list[Diagnostic] = []
        output = ""
        with collect_remarks() as remarks:
            try:
                output = process(chunk, filename, passes, options.flags, context, timer)
            except DiagnosticError as error:
                found.append(error.diagnostic)
        if verify:
            from .verify_diagnostics import check_expectations

            problems = check_expectations(
                chunk, filename, [*found, *remarks], strict_remarks="remarks" in options.flags
            )
            errors.write("".join(problem + "\n" for problem in problems))
            success &= not problems
        else:
            shown = [*remarks, *found] if "remarks" in options.flags else found
            shown += [r for r in remarks if r.severity == "warning" and r not in shown]
            errors.write("".join(diagnostic.text + "\n" for diagnostic in shown))
            success &= not found
        outputs.append(output)
    if "mlir-timing" in options.flags:
        errors.write(timer.report())
    return "// -----\n".join(outputs), success


def _chunks(text: str, split: bool) -> list[str]:
    """The modules of a text, each behind as many newlines as stand before it."""
    if not split:
        return [text]
    chunks: list[str] = []
    start = 0
    for match in [*_SPLIT.finditer(text), None]:
        end = len(text) if match is None else match.start()
        chunks.append("\n" * text.count("\n", 0, start) + text[start:end])
        start = end if match is None else match.end()
    return chunks


def write_output(name: str, text: str) -> None:
    """Write a file, whole or not at all, `-` for standard output; UsageError if it cannot be."""
    if name == "-":
        write_stdout(text)
        return
    from .files import output_path, write_whole

    def write(file: IO[bytes]) -> None:
        file.write(text.encode())

    write_whole(output_path(name), write)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    from .files import output_path
    from .passes.manager import PipelineError

    informing: dict[str, Callable[[], str]] = {
        "help": help_text,
        "version": version_text,
        "list-passes": list_passes,
    }
    from .plugins import load_installed_plugins

    try:
        load_installed_plugins()
        options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
        for name, text in informing.items():
            if name in options.flags:
                write_output("-", text())
                return 0
        filename = options.files[0] if options.files else "-"
        if options.output != "-":
            output_path(options.output)  # says at once what is wrong
        errors = sys.stderr or io.StringIO()  # None: closed
        with passes_shown("autopar-opt"):
            output, success = run(options, read_input(filename), filename, errors)
        if success or options.output == "-":
            write_output(options.output, output)
        return 0 if success else 1
    except (UsageError, PipelineError) as error:
        write_error("autopar-opt", str(error))
        return 1
    except BrokenPipeError:
        silence_stdout()  # the reader of a pipe has gone: nothing more to say
        return 1
    except MemoryError:
        write_error("autopar-opt", OUT_OF_MEMORY)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
