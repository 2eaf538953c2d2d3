"""`autopar`: run a module, explain its plan, solve a problem, measure the devices, and so on.

    autopar run MODULE.mlir --devices 8 --inputs in.npz --outputs out.npz
    autopar solve PROBLEM.json.gz --time-limit 60 -o SOLUTION.json
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
from typing import TYPE_CHECKING, Any, NoReturn

from .terminal import (
    OUT_OF_MEMORY,
    Progress,
    UsageError,
    configure_logging,
    silence_stdout,
    write_error,
    write_json,
    write_stdout,
)

if TYPE_CHECKING:
    from .dialects.diagnostics import Diagnostic


class _Parser(argparse.ArgumentParser):
    """argparse with our kind of error: one line, exit status 1."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")

    def print_help(self, file: Any = None) -> None:
        if file is None:
            write_stdout(self.format_help())
        else:
            super().print_help(file)


def make_parser() -> argparse.ArgumentParser:
    """The command line, as tools/gen_docs.py documents it."""
    parser = _Parser(
        prog="autopar",
        description="Runs partitioned programs and looks after the installation. "
        "Single passes are run by autopar-opt.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    run = commands.add_parser(
        "run",
        help="run a global, annotated module on N devices of this machine",
        description="Partitions MODULE.mlir (StableHLO with sdy or shard annotations) and runs "
        "@main on N local devices, with global arrays in and out: arg0, arg1, … and out0, out1, … "
        "in @main's order. Dtypes are kept; bf16 and f8 are read and written as float32, i4 as "
        "int8. Virtual CPU devices are made where the machine has no accelerators. OUT.npz is "
        "written whole at the end: where anything fails, an older one stays as it is.",
    )
    run.add_argument("module", metavar="MODULE.mlir", help="the module; - for standard input")
    run.add_argument("--devices", type=_positive, required=True, metavar="N", help="device count")
    run.add_argument("--inputs", metavar="IN.npz", help="global arrays arg0, arg1, …")
    run.add_argument("--outputs", required=True, metavar="OUT.npz", help="where out0, out1, … go")
    run.add_argument(
        "--passes",
        metavar="PIPELINE",
        help="passes instead of the default ones, as autopar-opt takes them: a,b{x=1}, "
        "builtin.module(a,b{x=1}) or '--a --b=\"x=1\"'",
    )
    run.add_argument(
        "--load",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a plug-in first (dotted name or .py file): rules and passes of your own",
    )
    run.add_argument("--remarks", action="store_true", help="print what the passes have to say")
    _common(run)

    solve = commands.add_parser(
        "solve",
        help="choose a strategy for each node of an IOPDDL problem",
        description="Finds a strategy for each node of PROBLEM.json (the IOPDDL benchmark's "
        "format, gzipped or not) such that memory suffices and the cost is the least, or as low as "
        "the time allows, with a lower bound. SOLUTION.json is a JSON list of strategy indices, "
        "written whole at the end: where anything fails, an older one stays as it is. The same "
        "problem, limit and seed give the same solution, unless the clock ends the search; then "
        "the report says so.",
    )
    solve.add_argument("problem", metavar="PROBLEM.json", help="the problem, also as .json.gz")
    solve.add_argument(
        "--time-limit",
        type=_seconds,
        required=True,
        metavar="SECONDS",
        help="for the whole command, reading included",
    )
    solve.add_argument(
        "-o", dest="output", required=True, metavar="SOLUTION.json", help="where the solution goes"
    )
    solve.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of the search's random numbers (0)"
    )
    _common(solve)

    explain = commands.add_parser(
        "explain",
        help="tell why a value is sharded so, and what another choice would cost",
        description="Plans MODULE.mlir (StableHLO of a step) as auto-shard does, and tells of "
        "VALUE where it lies, who decided that (the program, an option, another value, the "
        "search), and what a step would cost with the next best choices. VALUE is an argument "
        "(arg3, params['w']), a result (out0), a place in the source (model.py:41) or a part of a "
        "name stack (Block_0/Dense_1); several that differ in the layer alone are told as one. Of "
        "a plan's file (Plan.save) arguments and results are told, without prices.",
    )
    explain.add_argument(
        "module", metavar="MODULE.mlir", help="the module, - for standard input; or PLAN.json"
    )
    explain.add_argument("value", metavar="VALUE", nargs="?", help="what is asked for")
    explain.add_argument("--all", action="store_true", help="a table of all arguments")
    _planning(explain, "")
    _common(explain)

    view = commands.add_parser(
        "view",
        help="a plan as a page for a browser",
        description="Writes a page, one file that needs no network: the program as layers with "
        "what is sharded how, its collectives, memory over time, what a step's time is spent on. "
        "SOURCE is a module (StableHLO of a step), which is planned by auto-shard where options "
        "for it are given, and else is as it is annotated; or a plan (Plan.save) or a report of "
        "auto-shard, of which the page has less. PLAN.html is written whole at the end.",
    )
    view.add_argument("source", metavar="SOURCE", help="MODULE.mlir, PLAN.json or REPORT.json")
    view.add_argument(
        "-o", dest="output", required=True, metavar="PLAN.html", help="where the page goes"
    )
    view.add_argument("--title", metavar="TEXT", help="its title (the name of SOURCE)")
    _planning(view, None)
    _common(view)

    profile = commands.add_parser(
        "profile-cluster",
        help="measure the devices and write a cluster file",
        description="Measures the local devices, all at work at once: FLOPs of large matmuls, "
        "memory bandwidth, latency and bandwidth of collectives over groups of neighbours. Writes "
        "a cluster file (docs/cost.md), for cluster=FILE. Virtual CPU devices are made where the "
        "machine has no accelerators. FILE.toml is written whole at the end.",
    )
    profile.add_argument(
        "-o", dest="output", metavar="FILE.toml", help="where it goes (standard output)"
    )
    profile.add_argument("--quick", action="store_true", help="smaller and shorter: rough figures")
    profile.add_argument(
        "--devices", type=_positive, metavar="N", help="device count (all real ones, else 8)"
    )
    _common(profile)

    env = commands.add_parser(
        "env",
        help="versions, devices, and what is installed",
        description="Prints what a bug report needs: versions of autopar and of what it stands on, "
        "the devices JAX sees, optional packages and tools, and environment variables.",
    )
    _common(env)

    selftest = commands.add_parser(
        "selftest",
        help="tell within a minute whether this installation works",
        description="Tries every layer in order, from parsing IR to training steps on N devices "
        "whose results must be those of one device, and names the layers that fail. "
        "The same as python -m autopar.selftest.",
    )
    selftest.add_argument(
        "--devices", type=_positive, metavar="N", help="device count (all real ones, else 8)"
    )
    _common(selftest)
    return parser


def _planning(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--auto-shard",
        default=default,
        metavar="OPTIONS",
        help="options of the pass auto-shard, as 'grid=2x4 cluster=8xh100'",
    )


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="errors only")
    parser.add_argument("--json", action="store_true", help="a JSON report on standard output")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found '{text}'")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, found '{text}'")
    return value


def _seed(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, found '{text}'")
    return value


def _run(options: argparse.Namespace) -> int:
    from .plugins import load_installed_plugins, load_plugin
    from .run import Request, run

    load_installed_plugins()
    for name in options.load:
        load_plugin(name)
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
    request = Request(options.problem, options.output, options.time_limit, options.seed, spent)
    with Progress("autopar solve", quiet=options.quiet) as progress:
        solution = solve_file(request, progress)
        progress.done()
    if options.json:
        write_json(report(solution))
    elif not options.quiet:
        write_stdout(report_text(solution))
    return 0


def _explain_value(options: argparse.Namespace) -> int:
    from .explain import Request, explain_file
    from .plugins import load_installed_plugins

    if options.all == (options.value is not None):
        raise UsageError("give a VALUE, or --all for a table of all arguments")
    load_installed_plugins()
    request = Request(options.module, options.value, options.auto_shard)
    with Progress("autopar explain", quiet=options.quiet) as progress:
        found = explain_file(request, progress)
        progress.done()
    if options.json:
        write_json(found.as_json())
    else:
        write_stdout(f"{found}\n")
    return 0


def _view(options: argparse.Namespace) -> int:
    from .plugins import load_installed_plugins
    from .view.command import Request, view_file

    load_installed_plugins()
    request = Request(options.source, options.output, options.auto_shard, options.title)
    with Progress("autopar view", quiet=options.quiet) as progress:
        size = view_file(request, progress)
        progress.done(f"{request.output} ({size / 2**20:.1f} MiB)")
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
    "explain": _explain_value,
    "view": _view,
    "profile-cluster": _profile_cluster,
    "env": _env,
    "selftest": _selftest,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    program = "autopar"
    try:
        options = make_parser().parse_args(arguments)
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
        _explain(program, error)
        return 1


def _explain(program: str, error: Exception) -> None:
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
