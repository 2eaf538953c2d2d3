"""Pass pipelines from text: names, options, nesting; the same for every way to run passes.

Three spellings give the same list: a flag a pass (`--dce`, `--annotate-method="grid=2x4"`),
`builtin.module(annotate-method{grid=2x4},shard-partition)`, and xDSL's
`annotate-method{grid=2x4},shard-partition`.
Option values are read as the pass's fields say (int, float, bool, str, tuples of them), so that
paths, scientific numbers and `2x4` need no quotes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from autopar.dialects.spelling import did_you_mean

from . import PipelineError, load_pass
from .collector import collector_off

if TYPE_CHECKING:
    from xdsl.context import Context
    from xdsl.dialects.builtin import ModuleOp
    from xdsl.passes import ModulePass

__all__ = [
    "PassSpec",
    "PipelineError",
    "build_pass",
    "build_pipeline",
    "checked_option",
    "option_default",
    "option_help",
    "option_types",
    "parse_options",
    "parse_pipeline",
    "run_passes",
    "run_pipeline",
]


@dataclass(frozen=True)
class PassSpec:
    """A pass by name, with its options as text."""

    name: str
    options: tuple[tuple[str, str | None], ...] = ()
    """(name, value) in order; a value of None is a flag."""

    def __str__(self) -> str:
        texts = [name if value is None else f"{name}={value}" for name, value in self.options]
        return self.name + (f"{{{' '.join(texts)}}}" if texts else "")


def option_help(cls: type[ModulePass]) -> dict[str, str]:
    """What each option of a pass means: the string below its field."""
    import ast
    import inspect
    import textwrap

    documents: dict[str, str] = {}
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except OSError:  # made without a file
        return documents
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for field, below in itertools.pairwise(definition.body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                documents[name] = " ".join(text.split())
            case _:
                pass
    return documents


def option_types(cls: type[ModulePass]) -> dict[str, str]:
    """What may stand behind each option of a pass, as one writes it: `2x4`-like options are text,
    lists have commas."""
    hints = typing.get_type_hints(cls)
    return {option.name: _kind(hints[option.name]) for option in dataclasses.fields(cls)}


def option_default(option: dataclasses.Field[Any]) -> str:
    """The default of an option as one writes it; empty where there is none."""
    if option.default in (None, dataclasses.MISSING):
        return ""
    text = str(option.default)
    return text.lower() if isinstance(option.default, bool) else text


def _kind(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return "|".join(_kind(one) for one in arguments if one is not type(None))
    if origin is typing.Literal:
        return "|".join(map(str, arguments))
    if origin is tuple:
        return f"{_kind(arguments[0])},…"
    return _KINDS.get(hint, "text")


_KINDS: dict[Any, str] = {bool: "true|false", int: "integer", float: "number"}


# ---- options -------------------------------------------------------------------------------------

_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


def _to_bool(text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise ValueError("expected true or false")


def _to_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value.is_integer():
        raise ValueError("expected a whole number")
    return int(value)


def _to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("expected a number") from None


_SCALARS: dict[Any, Callable[[str], Any]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: str,
}


def _convert(text: str, hint: Any) -> Any:
    """A value of the hinted type from its text; ValueError says what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        choices = [choice for choice in arguments if choice is not type(None)]
        if len(choices) < len(arguments) and text.lower() in ("none", ""):
            return None
        for choice in choices[:-1]:
            try:
                return _convert(text, choice)
            except ValueError:
                continue
        return _convert(text, choices[-1])
    if origin is typing.Literal:
        for choice in arguments:
            if text == str(choice):
                return choice
        raise ValueError(f"expected one of {', '.join(map(str, arguments))}")
    if origin is tuple:
        separator = "x" if arguments[0] is int and "," not in text else ","
        parts = [part.strip() for part in text.split(separator)] if text else []
        return tuple(_convert(part, arguments[0]) for part in parts)
    if hint in _SCALARS:
        return _SCALARS[hint](text)
    if isinstance(hint, type) and issubclass(hint, str):
        return hint(text)
    raise ValueError(f"options of type {hint} cannot be given as text")


def checked_option(cls: type[ModulePass], field: str, value: object) -> Any:
    """A value of Python's for an option of a pass: one of the option's type, or the text that
    stands for it on the command line. Both go through the checks of the latter; ValueError says
    what was expected."""
    hint = typing.get_type_hints(cls)[field]
    if value is None and type(None) in typing.get_args(hint):
        return None
    if isinstance(value, list | tuple):
        texts = [_as_text(item) for item in cast("Sequence[object]", value)]
        fits = bool(texts) and _takes_list(hint)
    else:
        texts, fits = [_as_text(value)], True
    given = [text for text in texts if text is not None]
    if not fits or len(given) < len(texts):
        raise ValueError(f"expected {_kind(hint)}")
    found = _convert(",".join(given), hint)
    if isinstance(found, str) and not isinstance(value, str | os.PathLike):
        raise ValueError(f"expected {_kind(hint)}")
    return found


def _takes_list(hint: Any) -> bool:
    arguments = typing.get_args(hint)
    return typing.get_origin(hint) is tuple or any(map(_takes_list, arguments))


def _as_text(value: object) -> str | None:
    """One value as it is written on the command line; None for what has no such text."""
    match value:
        case str() | os.PathLike():
            return str(os.fspath(cast("str | os.PathLike[str]", value)))
        case bool():
            return str(value).lower()
        case numbers.Real():  # NumPy's too
            return str(value)
        case _:
            return None


def build_pass(spec: PassSpec) -> ModulePass:
    """The pass of a specification; PipelineError names the option that is wrong."""
    cls = load_pass(spec.name)
    fields = {field.name.replace("_", "-"): field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, text in spec.options:
        name = key.replace("_", "-")
        if name not in fields:
            known = f"; it has {', '.join(fields)}" if fields else "; it has none"
            raise PipelineError(
                f"pass '{spec.name}' has no option '{key}'{did_you_mean(name, fields) or known}"
            )
        field = fields[name].name
        if field in values:
            raise PipelineError(f"option '{key}' of pass '{spec.name}' is given twice")
        if text is None and hints[field] is not bool:
            raise PipelineError(f"option '{key}' of pass '{spec.name}' needs a value: {key}=…")
        try:
            values[field] = _convert("true" if text is None else text, hints[field])
        except ValueError as error:
            raise PipelineError(
                f"option '{key}' of pass '{spec.name}': {error}, found '{text}'"
            ) from None
    missing = [
        name
        for name, field in fields.items()
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise PipelineError(f"pass '{spec.name}' needs the option {', '.join(missing)}")
    try:
        return cls(**values)
    except ValueError as error:
        raise PipelineError(f"pass '{spec.name}': {error}") from None


_CLOSERS = {"{": "}", "(": ")", "[": "]"}


def _split(text: str, separators: str) -> list[str]:
    """Split outside of quotes and brackets."""
    parts = [""]
    stack: list[str] = []
    quote = ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in _CLOSERS:
            stack.append(_CLOSERS[char])
        elif char in "})]":
            if not stack or stack.pop() != char:
                raise PipelineError(f"unbalanced '{char}' in '{text}'")
        elif char in separators and not stack:
            parts.append("")
            continue
        parts[-1] += char
    if stack or quote:
        raise PipelineError(f"missing '{quote or stack[-1]}' in '{text}'")
    return parts


def _unquote(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text[1:-1] if text[:1] == "{" and text[-1:] == "}" else text


def parse_options(text: str) -> tuple[tuple[str, str | None], ...]:
    """`a=1 b="x y" flag` as (name, value) pairs."""
    options: list[tuple[str, str | None]] = []
    for part in _split(text, " \t\n"):
        if part:
            name, equals, value = part.partition("=")
            options.append((name, _unquote(value) if equals else None))
    return tuple(options)


def parse_pipeline(text: str) -> list[PassSpec]:
    """A pipeline text, nested (`builtin.module(…)`) or flat."""
    if not text.strip():
        raise PipelineError("the pipeline is empty: give names of passes, as in 'cse,dce'")
    specs: list[PassSpec] = []
    for part in _split(text, ","):
        part = part.strip()
        if not part:
            raise PipelineError(f"a name is missing beside a comma of the pipeline '{text}'")
        brace, paren = part.find("{"), part.find("(")
        if paren >= 0 and (brace < 0 or paren < brace):
            anchor = part[:paren].strip()
            if not part.endswith(")") or anchor not in ("builtin.module", "func.func", "any"):
                raise PipelineError(f"expected builtin.module(…), found '{part}'")
            inner = part[paren + 1 : -1]
            specs += parse_pipeline(inner) if inner.strip() else []
        elif brace >= 0:
            if not part.endswith("}"):
                raise PipelineError(f"expected '}}' at the end of '{part}'")
            specs.append(PassSpec(part[:brace].strip(), parse_options(part[brace + 1 : -1])))
        else:
            specs.append(PassSpec(part))
    return specs


def build_pipeline(pipeline: str | Sequence[PassSpec]) -> list[ModulePass]:
    """The passes of a pipeline text or of specifications."""
    specs = parse_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    return [build_pass(spec) for spec in specs]


def run_passes(
    module: ModuleOp,
    passes: Iterable[ModulePass | str],
    context: Context,
    after: Callable[[ModulePass, ModuleOp], None] | None = None,
) -> None:
    """Run passes in order, those given by name with their default options.

    `after` is called behind each (dumps, timing).
    """
    with collector_off():
        for item in passes:
            pass_ = load_pass(item)() if isinstance(item, str) else item
            pass_.apply(context, module)
            if after is not None:
                after(pass_, module)


def run_pipeline(module: ModuleOp, pipeline: str, context: Context) -> None:
    """Run a pipeline text over a module."""
    run_passes(module, build_pipeline(pipeline), context)
