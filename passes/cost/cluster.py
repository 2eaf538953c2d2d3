"""Clusters: what their devices compute and how they are linked, read from TOML files.

    version = 1

    [device]
    flops.f32 = 4e14          # per second, what a large matmul reaches
    flops.bf16 = 7e14
    memory_bytes = 80e9
    memory_bandwidth = 3e12   # bytes a second
    elementwise = 2.6e13      # operations a second on what is in registers, where they shall count
    transcendental = 1.6e12   # exponentials a second, where they shall count

    [[link]]                  # innermost first
    size = 8                  # devices that it joins
    alpha = 2e-5              # seconds a message
    beta = 2.7e-12            # seconds a byte that a device sends, when all send at once

`name` and `device.kind` may be given as well, `device.jax_kinds = ["h100"]`: words, one of which
stands in JAX's name of such a device, and `device.convolution.16`: the share of the rate of
matmuls that a convolution of so many output features reaches; several of them make a curve. The
presets are such files, in `presets/`.
"""

from __future__ import annotations

import math
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

VERSION = 1
MOST_BYTES = 10**18
"""More is no device's memory, and sums of it overflow the solver's integers."""
MOST_SECONDS = 1e3
"""Of a message or a byte: more is a slip, and steps of years are beyond the solver's integers."""
_RATES = 1.0, 1e24
"""FLOPs or bytes a second: with less, too, steps take years; more is a slip."""
_LEAST_SHARE = 1e-9
_OPERATIONS = "elementwise", "transcendental"
_OF_DEVICE = (
    "kind", "jax_kinds", "flops", "convolution", "memory_bytes", "memory_bandwidth", *_OPERATIONS,
)  # fmt: skip
_PRESETS = Path(__file__).with_name("presets")

_DTYPE = re.compile(r"(bf16|tf32|f(8|16|32|64)|f[468]E\w+|u?i([1248]|16|32|64)|complex<f(32|64)>)$")
_NEAREST: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = (
    (r"f16", (("bf16", 1), ("f32", 1))),
    (r"bf16", (("f16", 1), ("f32", 1))),
    (r"tf32", (("f32", 1),)),
    (r"f[468]E.*|f8", (("f8", 1), ("bf16", 1))),
    (r"f64", (("f32", 1 / 2),)),
    (r"complex<f32>", (("f32", 1 / 4),)),
    (r"complex<f64>", (("f64", 1 / 4), ("f32", 1 / 8))),
    (r"u?i[1248]", (("i8", 1), ("bf16", 1))),
    (r"u?i64", (("f32", 1 / 2),)),
    (r".*", (("f32", 1),)),
)
"""For a dtype that a cluster does not state: stated ones in its place and their share, the first
that is stated. 16-bit floats stand for each other; a narrower number gains nothing that is not
stated; twice the width is half the speed; a complex product is four real ones."""
_ANY = (("f32", 1.0), ("bf16", 0.5), ("f16", 0.5), ("f64", 2.0))
"""What stands for f32 where it is not stated."""


class ClusterError(ValueError):
    """A cluster that cannot be used; the message is one line: which file and key, what is wrong,
    what to do."""


@dataclass(frozen=True)
class Device:
    """One device; all devices of a cluster are alike."""

    kind: str
    flops: Mapping[str, float]
    """FLOPs a second that a large matmul reaches, by element type (MLIR's names: f32, bf16, …)."""
    memory_bytes: int
    memory_bandwidth: float
    """Bytes a second, read or written, that a large elementwise op reaches."""
    convolution: Mapping[int, float] = field(default_factory=dict[int, float])
    """The share of the rate of matmuls that convolutions reach, by output features (of a group)."""
    elementwise: float = math.inf
    """Simple elementwise operations (an addition of two f32) a second, on what is in registers."""
    transcendental: float = math.inf
    """Exponentials (and the like: tanh, log) a second."""
    jax_kinds: tuple[str, ...] = ()
    """Words, in lower case, of which JAX's name of such a device (its `device_kind`) has one."""

    def flops_per_second(self, dtype: str) -> float:
        """FLOPs a second in an element type; of the nearest stated one where it is not stated."""
        if dtype in self.flops:
            return self.flops[dtype]
        stands = next(stands for name, stands in _NEAREST if re.fullmatch(name, dtype))
        for name, share in stands:
            if name in self.flops:
                return share * self.flops[name]
        return stands[-1][1] * self._any_flops()

    def convolution_share(self, features: float) -> float:
        """The share of the rate of matmuls that a convolution of so many output features reaches.
        Between two stated widths the curve is a power of the width, beyond them it is flat; where
        none is stated, convolutions are as fast as matmuls."""
        stated = sorted(self.convolution)
        if not stated:
            return 1.0
        features = min(max(features, stated[0]), stated[-1])
        above = next(width for width in stated if width >= features)
        if above == features:
            return self.convolution[above]
        below = stated[stated.index(above) - 1]
        weight = math.log(features / below) / math.log(above / below)
        return self.convolution[below] ** (1 - weight) * self.convolution[above] ** weight

    def _any_flops(self) -> float:
        for name, share in _ANY:
            if name in self.flops:
                return share * self.flops[name]
        return max(self.flops.values())


@dataclass(frozen=True)
class Link:
    """What joins a block of consecutive devices."""

    size: int
    """Devices that it joins."""
    alpha: float
    """Seconds a message (one collective over one grid axis)."""
    beta: float
    """Seconds a byte that a device sends, when all devices send at once."""


@dataclass(frozen=True)
class Cluster:
    """Devices, numbered in the order in which links join them."""

    name: str
    device: Device
    links: tuple[Link, ...]
    """Innermost first, of growing size."""

    @property
    def num_devices(self) -> int:
        """The most devices that a grid may have."""
        return self.links[-1].size


def preset_names() -> list[str]:
    """The clusters that `read_cluster` knows by name."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def preset_of(device_kind: str) -> str | None:
    """The preset of a kind of devices, as JAX names it; None where there is none."""
    for name in preset_names():
        if any(word in device_kind.lower() for word in read_cluster(name).device.jax_kinds):
            return name
    return None


def read_cluster(preset_or_path: str | Path) -> Cluster:
    """A preset by name, or the cluster in a TOML file; ClusterError where it cannot be used."""
    path = Path(preset_or_path)
    if str(preset_or_path) in preset_names():
        path = _PRESETS / f"{preset_or_path}.toml"
    elif path.is_dir() or not path.exists():
        raise ClusterError(
            f"cluster {str(preset_or_path) or repr('')}: neither a file nor a preset; presets: "
            f"{', '.join(preset_names())}"
        )
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClusterError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ClusterError(f"{path}: not a text file: {error.reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise ClusterError(f"{path}: not TOML: {error}") from None
    return _Reader(str(path)).cluster(data, path.stem)


def write_cluster(cluster: Cluster, comments: Mapping[str, str] | None = None) -> str:
    """The text of a cluster file. `comments`: lines above a key (`device.flops.f32`, `link.0`) or
    at the top (`""`)."""
    notes = comments or {}

    def note(key: str) -> list[str]:
        return [f"# {line}" for line in notes.get(key, "").splitlines()]

    device = cluster.device
    lines = [*note(""), f"version = {VERSION}", f"name = {_quoted(cluster.name)}", "", "[device]"]
    lines.append(f"kind = {_quoted(device.kind)}")
    if device.jax_kinds:
        lines.append(f"jax_kinds = [{', '.join(map(_quoted, device.jax_kinds))}]")
    for dtype, flops in device.flops.items():
        key = dtype if re.fullmatch(r"\w+", dtype) else _quoted(dtype)
        lines += [*note(f"device.flops.{dtype}"), f"flops.{key} = {_number(flops)}"]
    lines += note("device.convolution")
    for features, share in device.convolution.items():
        lines.append(f"convolution.{features} = {_number(share)}")
    lines += [*note("device.memory_bytes"), f"memory_bytes = {device.memory_bytes}"]
    bandwidth = _number(device.memory_bandwidth)
    lines += [*note("device.memory_bandwidth"), f"memory_bandwidth = {bandwidth}"]
    for key in _OPERATIONS:
        if (rate := getattr(device, key)) < math.inf:
            lines += [*note(f"device.{key}"), f"{key} = {_number(rate)}"]
    for index, link in enumerate(cluster.links):
        lines += ["", *note(f"link.{index}"), "[[link]]", f"size = {link.size}"]
        lines += [f"alpha = {_number(link.alpha)}", f"beta = {_number(link.beta)}"]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    """A float as TOML has it, which reads back as the same."""
    text = repr(float(value))
    return text if "." in text or "e" in text else f"{text}.0"


def _quoted(text: str) -> str:
    """A basic string of TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'


@dataclass(frozen=True)
class _Reader:
    """Checks the parts of one file."""

    file: str

    def error(self, key: str, problem: str) -> ClusterError:
        return ClusterError(f"{self.file}: {key}: {problem}")

    def cluster(self, data: dict[str, Any], stem: str) -> Cluster:
        version = data.get("version")
        if version is None:
            raise self.error("version", f"missing; write version = {VERSION}")
        if type(version) is not int or version != VERSION:
            raise self.error(
                "version", f"found {version!r}, this autopar reads version = {VERSION}"
            )
        self._check_keys("", data, ("version", "name", "device", "link"))
        name = self._text("name", data.get("name", stem))
        device = self._device(self._table("device", data.get("device")))
        entries = data.get("link")
        if not isinstance(entries, list) or not entries:
            raise self.error("link", "missing; write at least one [[link]] table")
        links = [self._link(i, entry) for i, entry in enumerate(cast("list[object]", entries))]
        for index, (inner, outer) in enumerate(pairwise(links), 1):
            if outer.size <= inner.size:
                raise self.error(
                    f"link {index}: size",
                    f"found {outer.size} after {inner.size}; write links from the innermost out, "
                    "each joining more devices than the one before",
                )
            if outer.size % inner.size:
                raise self.error(
                    f"link {index}: size",
                    f"found {outer.size} after {inner.size}; a link joins whole blocks of the one "
                    "before: write a multiple",
                )
        return Cluster(name, device, tuple(links))

    def _device(self, table: dict[str, Any]) -> Device:
        self._check_keys("device.", table, _OF_DEVICE)
        stated = self._table("device.flops", table.get("flops"))
        flops: dict[str, float] = {}
        for dtype, value in stated.items():
            if not _DTYPE.match(dtype):
                raise self.error(
                    f"device.flops.{dtype}", "not an element type; f32, bf16, f16, f64, i8 … are"
                )
            flops[dtype] = self._number(f"device.flops.{dtype}", value, *_RATES)
        if not flops:
            raise self.error("device.flops", "empty; state flops.f32 and flops.bf16")
        memory = self._number("device.memory_bytes", table.get("memory_bytes"), 1, MOST_BYTES)
        bandwidth = self._number("device.memory_bandwidth", table.get("memory_bandwidth"), *_RATES)
        kind = self._text("device.kind", table.get("kind", "device"))
        convolution = self._convolution(table.get("convolution", {}))
        words = self._words("device.jax_kinds", table.get("jax_kinds", []))
        simple, functions = (
            self._number(f"device.{key}", table[key], *_RATES) if key in table else math.inf
            for key in _OPERATIONS
        )
        return Device(kind, flops, int(memory), bandwidth, convolution, simple, functions, words)

    def _convolution(self, value: object) -> dict[int, float]:
        shares: dict[int, float] = {}
        for features, share in self._table("device.convolution", value).items():
            key = f"device.convolution.{features}"
            if not re.fullmatch(r"[1-9][0-9]*", features):
                raise self.error(key, "not a number of output features; 16, 64 … are")
            shares[int(features)] = self._number(key, share, _LEAST_SHARE)
        return shares

    def _link(self, index: int, entry: object) -> Link:
        where = f"link {index}"
        table = self._table(where, entry)
        self._check_keys(f"{where}: ", table, ("size", "alpha", "beta"))
        size = table.get("size")
        if type(size) is not int or size < 1:
            found = "missing" if size is None else f"found {size!r}"
            raise self.error(f"{where}: size", f"{found}; give a whole number of devices")
        alpha, beta = (
            self._number(f"{where}: {key}", table.get(key), 0, MOST_SECONDS)
            for key in ("alpha", "beta")
        )
        return Link(size, alpha, beta)

    def _check_keys(self, prefix: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                raise self.error(f"{prefix}{key}", f"unknown; known here: {', '.join(known)}")

    def _table(self, key: str, value: object) -> dict[str, Any]:
        if value is None:
            raise self.error(key, f"missing; write a table [{key}]")
        if not isinstance(value, dict):
            raise self.error(key, f"found {value!r}; give a table")
        return cast("dict[str, Any]", value)

    def _text(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.error(key, f"found {value!r}; give a string")
        return value

    def _words(self, key: str, value: object) -> tuple[str, ...]:
        found = cast("list[object]", value) if isinstance(value, list) else [None]
        words = tuple(
            word for word in found if isinstance(word, str) and word == word.lower() != ""
        )
        if len(words) < len(found):
            raise self.error(key, f"found {value!r}; give a list of words in lower case")
        return words

    def _number(self, key: str, value: object, least: float, most: float = math.inf) -> float:
        if value is None:
            raise self.error(key, "missing; give a number")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"found {value!r}; give a number")
        # as an integer: one of TOML may be larger than any float
        if not least <= value <= min(most, sys.float_info.max):
            within = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
            raise self.error(key, f"found {value}; give a number {within}")
        return float(value)
