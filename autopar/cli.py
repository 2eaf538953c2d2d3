"""`autopar`: run a module, explain its plan, solve a problem, measure the devices, and so on.

    autopar run MODULE.mlir --devices 8 --inputs in.npz --outputs out.npz
    autopar solve PROBLEM.json.gz --time-limit 60 -o SOLUTION.json
    autopar plan MODULE.mlir --auto-shard="grid=2x4" -o plan.json
    autopar explain MODULE.mlir "params['w']" --auto-shard="grid=2x4"
    autopar view MODULE.mlir -o plan.html --auto-shard="grid=2x4"
    autopar profile-cluster -o cluster.toml
    autopar env [--json]
    autopar selftest [--devices 8]

Passes alone are `autopar-opt`'s. Exit status 0 or 1; errors are one line.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .command_line import make_parser, parse
from .terminal import (
    OUT_OF_MEMORY,
    Progress,
    UsageError,
    configure_logging,
    passes_shown,
    silence_stdout,
    write_error,
    write_json,
    write_stdout,
)

if TYPE_CHECKING:
    from .dialects.diagnostics import Diagnostic


def _load_plugins(names: Sequence[str]) -> None:
    from .plugins import load_installed_plugins, load_plugin

    load_installed_plugins()
    for name in names:
        load_plugin(name)


def _run(options: argparse.Namespace) -> int:
    from .run import Request, run

    _load_plugins(options.load)
    request = Request(
        options.module, options.devices, options.inputs, options.outputs, options.passes
    )
    with Progress("autopar run", quiet=options.quiet) as progress:
        report = run(request, progress)
        seconds = sum(report.seconds.values())
        progress.done(f"{len(report.results)} results in {request.outputs} ({seconds:.1f} s)")
    _show(report.remarks, remarks=options.remarks, quiet=options.quiet)
    if options.json:
        write_json(report.as_json())
    return 0


def _show(diagnostics: Sequence[Diagnostic], *, remarks: bool, quiet: bool) -> None:
    for diagnostic in diagnostics:
        if remarks or (diagnostic.severity == "warning" and not quiet):
            sys.stderr.write(diagnostic.text + "\n")


def _solve(options: argparse.Namespace) -> int:
    from .solve import Request, process_age_s, report, report_text, solve_file

    # as a program the limit counts from its start; called from Python from the call
    spent = process_age_s() if options.is_program else 0.0
    _load_plugins(options.load)
    request = Request(
        options.problem, options.output, options.time_limit, options.seed, options.solver, spent
    )
    with Progress("autopar solve", quiet=options.quiet) as progress:
        solution = solve_file(request, progress)
        progress.done()
    if options.json:
        write_json(report(solution))
    elif not options.quiet:
        write_stdout(report_text(solution))
    return 0


def _explain(options: argparse.Namespace) -> int:
    from .dialects.diagnostics import collect_remarks
    from .explain import Request, explain_file

    if options.all == (options.value is not None):
        raise UsageError("give a VALUE, or --all for a table of all arguments")
    _load_plugins(options.load)
    request = Request(options.module, options.value, options.auto_shard)
    with Progress("autopar explain", quiet=options.quiet) as progress, collect_remarks() as remarks:
        found = explain_file(request, progress)
        progress.done()
    _show(remarks, remarks=options.remarks, quiet=options.quiet)
    if options.json:
        write_json(found.as_json())
    else:
        write_stdout(f"{found}\n")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from .module_plan import Request, plan_file
    from .passes.planning.report import plan_text

    _load_plugins(options.load)
    request = Request(options.module, options.auto_shard, options.output)
    with passes_shown("autopar plan", quiet=options.quiet):
        report, remarks = plan_file(request)
    _show(remarks, remarks=options.remarks, quiet=options.quiet)
    if options.json:
        write_json(report)
    elif options.output is None or not options.quiet:
        write_stdout(plan_text(report) + "\n")
    return 0


def _view(options: argparse.Namespace) -> int:
    from .passes.planning.words import size_text
    from .view.command import Request, view_file

    _load_plugins(options.load)
    request = Request(options.source, options.output, options.auto_shard, options.title)
    with Progress("autopar view", quiet=options.quiet) as progress:
        size = view_file(request, progress)
        progress.done(f"{request.output} ({size_text(size)})")
    if options.json:
        write_json({"version": 1, "page": request.output, "bytes": size})
    return 0


def _profile_cluster(options: argparse.Namespace) -> int:
    from .profile_cluster import Request, profile_to_file, report, report_text

    request = Request(options.output, options.devices, options.quick)
    if options.json and options.output is None:
        raise UsageError("--json needs -o: the file itself goes to standard output")
    with Progress("autopar profile-cluster", quiet=options.quiet) as progress:
        cluster = profile_to_file(request, progress)
        progress.done()
    if options.json:
        write_json(report(cluster))
    elif options.output is not None and not options.quiet:
        write_stdout(report_text(cluster))
    return 0


def _env(options: argparse.Namespace) -> int:
    from .environment import environment, environment_text

    facts = environment()
    if options.json:
        write_json(facts)
    else:
        write_stdout(environment_text(facts))
    return 0


def _selftest(options: argparse.Namespace) -> int:
    from .selftest import run_selftest

    return run_selftest(options.devices, quiet=options.quiet, as_json=options.json)


COMMANDS = {
    "run": _run,
    "solve": _solve,
    "plan": _plan,
    "explain": _explain,
    "view": _view,
    "profile-cluster": _profile_cluster,
    "env": _env,
    "selftest": _selftest,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    program = "autopar"
    try:
        options = parse(arguments)
        options.is_program = arguments is None
        if options.version:
            from .environment import version_text

            write_stdout(version_text())
            return 0
        if options.command is None:
            make_parser().print_help(sys.stderr)
            return 1
        program = f"autopar {options.command}"
        configure_logging(quiet=options.quiet)
        status = _guarded(program, options)
    except UsageError as error:
        write_error(program, str(error))
        return 1
    except MemoryError:
        write_error(program, OUT_OF_MEMORY)
        return 1
    except BrokenPipeError:
        silence_stdout()
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _guarded(program: str, options: argparse.Namespace) -> int:
    """Runs a command; whatever goes wrong is one line."""
    try:
        return COMMANDS[options.command](options)
    except (UsageError, BrokenPipeError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        if os.environ.get("AUTOPAR_TRACEBACK"):
            raise
        _report_error(program, error)
        return 1


def _report_error(program: str, error: Exception) -> None:
    """One line for an error, by its kind."""
    from .dialects.diagnostics import DiagnosticError
    from .passes.manager import PipelineError
    from .runtime.devices import DeviceError

    if isinstance(error, DiagnosticError):
        sys.stderr.write(error.diagnostic.text + "\n")
    elif isinstance(error, PipelineError | DeviceError | ImportError):
        write_error(program, str(error))
    else:
        first = (str(error).strip() or "no message").partition("\n")[0]
        write_error(program, f"{type(error).__name__}: {first} (AUTOPAR_TRACEBACK=1 shows where)")


if __name__ == "__main__":
    sys.exit(main())
