"""FLOPs of the dots and convolutions of compiled HLO, counted as `passes/cost/flops.py` counts them
in StableHLO."""

from __future__ import annotations

import re
from math import prod
from typing import NamedTuple

from autopar.passes.cost.flops import window_meetings

from .hlo_text import Computation, Instruction

_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")


class _Window(NamedTuple):
    """One spatial dimension."""

    size: int
    stride: int
    low: int
    base_dilation: int
    dilation: int


def dot_flops(dot: Instruction, of: Computation) -> int:
    lhs, _ = of.operands(dot)
    contracted = prod(lhs.arrays[0].shape[d] for d in dot.numbers("lhs_contracting_dims"))
    return 2 * prod(dot.arrays[0].shape) * contracted


def convolution_flops(convolution: Instruction, of: Computation) -> int:
    lhs, kernel = of.operands(convolution)
    lhs_labels, kernel_labels, out_labels = _labels(convolution)
    out = convolution.arrays[0].shape
    met = 1
    for dim, window in enumerate(_windows(convolution)):
        size = lhs.arrays[0].shape[lhs_labels.index(str(dim))]
        windows = out[out_labels.index(str(dim))]
        met *= window_meetings(
            size,
            window.size,
            windows,
            window.stride,
            window.low,
            window.base_dilation,
            window.dilation,
        )
    batch, features = out[out_labels.index("b")], out[out_labels.index("f")]
    return 2 * met * batch * features * kernel.arrays[0].shape[kernel_labels.index("i")]


def output_features(convolution: Instruction) -> int:
    """The output features of one group."""
    _, _, labels = _labels(convolution)
    groups = _count(convolution, "feature_group_count") * _count(convolution, "batch_group_count")
    return convolution.arrays[0].shape[labels.index("f")] // groups


def _labels(convolution: Instruction) -> tuple[str, str, str]:
    match = _LABELS.search(convolution.text)
    assert match is not None, convolution.text
    return match[1], match[2], match[3]


def _count(convolution: Instruction, name: str) -> int:
    match = re.search(rf"{name}=(\d+)", convolution.text)
    return int(match[1]) if match else 1


def _windows(convolution: Instruction) -> list[_Window]:
    """Of `window={size=3x3 stride=2x2 pad=0_1x0_1 lhs_dilate=2x2 rhs_dilate=1x1}`."""
    match = re.search(r"window=\{(.*?)\}", convolution.text)
    stated = dict(re.findall(r"(\w+)=(\S+)", match[1])) if match else {}
    if "size" not in stated:
        return []
    sizes = [int(n) for n in stated["size"].split("x")]

    def all_of(name: str, default: int) -> list[int]:
        return (
            [int(n) for n in stated[name].split("x")] if name in stated else [default] * len(sizes)
        )

    pads = [int(p.split("_")[0]) for p in stated["pad"].split("x")] if "pad" in stated else None
    rows = zip(
        sizes,
        all_of("stride", 1),
        pads or [0] * len(sizes),
        all_of("lhs_dilate", 1),
        all_of("rhs_dilate", 1),
        strict=True,
    )
    return [_Window(*row) for row in rows]
