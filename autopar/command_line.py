"""What may stand on the command line of `autopar`; tools/gen_docs.py documents it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

from .terminal import UsageError, write_stdout


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


_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"  # pyright: ignore[reportPrivateUsage]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says. argparse takes a word that may be left out only where it stands
    next to the others: `explain`'s VALUE may also follow the options."""
    parser = make_parser()
    options, left = parser.parse_known_args(arguments)
    if left and not left[0].startswith("-") and getattr(options, "value", "") is None:
        options.value = left.pop(0)
    if left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    return options


def make_parser() -> argparse.ArgumentParser:
    """The command line, as tools/gen_docs.py documents it."""
    parser = _Parser(
        prog="autopar",
        description="Runs partitioned programs and looks after the installation. "
        "Single passes are run by autopar-opt.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for add in (
        _run,
        _solve,
        _plan,
        _explain,
        _view,
        _profile_cluster,
        _env,
        _selftest,
    ):
        add(commands)
    return parser


def _run(commands: _Commands) -> None:
    command = commands.add_parser(
        "run",
        help="run a global, annotated module on N devices of this machine",
        description="Partitions MODULE.mlir (StableHLO with sdy or shard annotations) and runs "
        "@main on N local devices, with global arrays in and out: arg0, arg1, … and out0, out1, … "
        "in @main's order. Dtypes are kept; bf16 and f8 are read and written as float32, i4 as "
        "int8. Virtual CPU devices are made where the machine has no accelerators. OUT.npz is "
        "written whole at the end: where anything fails, an older one stays as it is.",
    )
    command.add_argument("module", metavar="MODULE.mlir", help="the module; - for standard input")
    command.add_argument(
        "--devices", type=_positive, required=True, metavar="N", help="device count"
    )
    command.add_argument("--inputs", metavar="IN.npz", help="global arrays arg0, arg1, …")
    command.add_argument(
        "--outputs", required=True, metavar="OUT.npz", help="where out0, out1, … go"
    )
    command.add_argument(
        "--passes",
        metavar="PIPELINE",
        help="passes instead of the default ones, as autopar-opt takes them: a,b{x=1}, "
        "builtin.module(a,b{x=1}) or '--a --b=\"x=1\"'",
    )
    _load_option(command, "rules and passes of your own")
    _remarks_option(command)
    _common(command)


def _solve(commands: _Commands) -> None:
    command = commands.add_parser(
        "solve",
        help="choose a strategy for each node of an IOPDDL problem",
        description="Finds a strategy for each node of PROBLEM.json (the IOPDDL benchmark's "
        "format, gzipped or not) such that memory suffices and the cost is the least, or as low as "
        "the time allows, with a lower bound. SOLUTION.json is a JSON list of strategy indices, "
        "written whole at the end: where anything fails, an older one stays as it is. The same "
        "problem, limit and seed give the same solution, unless the clock ends the search; then "
        "the report says so.",
    )
    command.add_argument("problem", metavar="PROBLEM.json", help="the problem, also as .json.gz")
    command.add_argument(
        "--time-limit",
        type=_seconds,
        required=True,
        metavar="SECONDS",
        help="for the whole command, reading included",
    )
    command.add_argument(
        "-o", dest="output", required=True, metavar="SOLUTION.json", help="where the solution goes"
    )
    command.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of the search's random numbers (0)"
    )
    command.add_argument(
        "--solver", metavar="NAME", help="a solver that a plug-in registers, in place of our own"
    )
    _load_option(command, "solvers of your own")
    _common(command)


def _plan(commands: _Commands) -> None:
    command = commands.add_parser(
        "plan",
        help="plan a module: where its arguments lie, what a step takes",
        description="Plans MODULE.mlir (StableHLO of a step) as auto-shard does, and prints where "
        "its arguments lie, what a step's time is spent on, its collectives, its memory and how "
        "near to the cheapest the plan is; --json prints what report=FILE.json writes. PLAN.json "
        "is what Plan.save writes: for autopar explain, autopar view and Plan.load. It is written "
        "whole at the end.",
    )
    command.add_argument("module", metavar="MODULE.mlir", help="the module; - for standard input")
    command.add_argument("-o", dest="output", metavar="PLAN.json", help="where the plan goes")
    _planning(command)
    _load_option(command, "rules and solvers of your own")
    _remarks_option(command)
    _common(command)


def _explain(commands: _Commands) -> None:
    command = commands.add_parser(
        "explain",
        help="tell why a value is sharded so, and what another choice would cost",
        description="Plans MODULE.mlir (StableHLO of a step) as auto-shard does, and tells of "
        "VALUE where it lies, who decided that (the program, an option, another value, the "
        "search), and what a step would cost with the next best choices. VALUE is an argument "
        "(arg3, params['w']), a result (out0), a place in the source (model.py:41) or a part of a "
        "name stack (Block_0/Dense_1); several that differ in the layer alone are told as one. Of "
        "a plan's file (autopar plan, Plan.save) arguments and results are told, without prices.",
    )
    command.add_argument(
        "module", metavar="MODULE.mlir", help="the module, - for standard input; or PLAN.json"
    )
    command.add_argument("value", metavar="VALUE", nargs="?", help="what is asked for")
    command.add_argument("--all", action="store_true", help="a table of all arguments")
    _planning(command)
    _load_option(command, "rules and solvers of your own")
    _remarks_option(command)
    _common(command)


def _view(commands: _Commands) -> None:
    command = commands.add_parser(
        "view",
        help="a plan as a page for a browser",
        description="Writes a page, one file that needs no network: the program as layers with "
        "what is sharded how, its collectives, memory over time, what a step's time is spent on. "
        "SOURCE is a module (StableHLO of a step), which is planned by auto-shard where options "
        "for it are given, and else is as it is annotated; or a plan (autopar plan, Plan.save) or "
        "a report of auto-shard, of which the page has less. PLAN.html is written whole at the "
        "end.",
    )
    command.add_argument("source", metavar="SOURCE", help="MODULE.mlir, PLAN.json or REPORT.json")
    command.add_argument(
        "-o", dest="output", required=True, metavar="PLAN.html", help="where the page goes"
    )
    command.add_argument("--title", metavar="TEXT", help="its title (the name of SOURCE)")
    _planning(command)
    _load_option(command, "rules and solvers of your own")
    _common(command)


def _profile_cluster(commands: _Commands) -> None:
    command = commands.add_parser(
        "profile-cluster",
        help="measure the devices and write a cluster file",
        description="Measures the local devices, all at work at once: FLOPs of large matmuls, "
        "memory bandwidth, latency and bandwidth of collectives over groups of neighbours. Writes "
        "a cluster file (docs/cost.md), for cluster=FILE. Virtual CPU devices are made where the "
        "machine has no accelerators. FILE.toml is written whole at the end.",
    )
    command.add_argument(
        "-o", dest="output", metavar="FILE.toml", help="where it goes (standard output)"
    )
    command.add_argument("--quick", action="store_true", help="smaller and shorter: rough figures")
    command.add_argument(
        "--devices", type=_positive, metavar="N", help="device count (all real ones, else 8)"
    )
    _common(command, "a JSON report on standard output, where -o takes the file")


def _env(commands: _Commands) -> None:
    command = commands.add_parser(
        "env",
        help="versions, devices, and what is installed",
        description="Prints what a bug report needs: versions of autopar and of what it stands on, "
        "the devices JAX sees, optional packages and tools, and environment variables.",
    )
    _common(command)


def _selftest(commands: _Commands) -> None:
    command = commands.add_parser(
        "selftest",
        help="tell within a minute whether this installation works",
        description="Tries every layer in order, from parsing IR to training steps on N devices "
        "whose results must be those of one device, and names the layers that fail. "
        "The same as python -m autopar.selftest.",
    )
    command.add_argument(
        "--devices", type=_positive, metavar="N", help="device count (all real ones, else 8)"
    )
    _common(command)


def _load_option(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument(
        "--load",
        action="append",
        default=[],
        metavar="MODULE",
        help=f"import a plug-in first (dotted name or .py file): {what}",
    )


def _remarks_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--remarks", action="store_true", help="print what the passes have to say")


def _planning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--auto-shard",
        metavar="OPTIONS",
        help="options of the pass auto-shard, as 'grid=2x4 cluster=8xh100'",
    )


def _common(
    parser: argparse.ArgumentParser, json: str = "a JSON report on standard output"
) -> None:
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="no messages but errors; a result is printed only where no -o takes it",
    )
    parser.add_argument("--json", action="store_true", help=json)


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
