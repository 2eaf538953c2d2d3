"""Cluster files: presets, what may stand in one, every error with its remedy."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest

from autopar.passes.cost.cluster import (
    Cluster,
    ClusterError,
    Device,
    Link,
    preset_names,
    read_cluster,
    write_cluster,
)

PLAIN = """
version = 1

[device]
flops.f32 = 4e12
flops.bf16 = 10e12
memory_bytes = 16e9
memory_bandwidth = 1e12

[[link]]
size = 8
alpha = 1e-5
beta = 1e-11

[[link]]
size = 64
alpha = 5e-5
beta = 1e-9
"""


def read(tmp_path: Path, text: str) -> Cluster:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return read_cluster(path)


def test_presets_are_there_and_parse() -> None:
    assert "8xh100" in preset_names()
    for name in preset_names():
        cluster = read_cluster(name)
        assert {"f32", "bf16"} <= cluster.device.flops.keys()
        speeds = [link.beta for link in cluster.links]
        assert speeds == sorted(speeds), "the outer link is the dearer one"
        assert cluster.num_devices >= 64


def test_a_kind_of_devices_has_one_preset() -> None:
    words = [word for name in preset_names() for word in read_cluster(name).device.jax_kinds]
    assert len(words) > 3
    assert not [(a, b) for a in words for b in words if a in b and a is not b]


def test_the_order_of_the_machines() -> None:
    """What nobody doubts about the presets."""
    v100, a100, h100 = (read_cluster(f"8x{name}100") for name in "vah")
    for dtype in ("f16", "f32", "f64"):
        speeds = [c.device.flops_per_second(dtype) for c in (v100, a100, h100)]
        assert speeds == sorted(speeds)
    assert h100.device.memory_bytes == a100.device.memory_bytes == 5 * v100.device.memory_bytes
    assert v100.links[0].beta > a100.links[0].beta > h100.links[0].beta


def test_a_plain_file(tmp_path: Path) -> None:
    cluster = read(tmp_path, PLAIN)
    assert cluster == Cluster(
        "mine",
        Device("device", {"f32": 4e12, "bf16": 10e12}, 16 * 10**9, 1e12),
        (Link(8, 1e-5, 1e-11), Link(64, 5e-5, 1e-9)),
    )
    assert cluster.num_devices == 64


@pytest.mark.parametrize("name", preset_names())
def test_written_clusters_read_back(tmp_path: Path, name: str) -> None:
    cluster = read_cluster(name)
    notes = {"": "two\nlines", "device.flops.f32": "measured", "link.0": "NVLink"}
    text = write_cluster(cluster, notes)
    assert read(tmp_path, text) == cluster
    assert text.startswith("# two\n# lines\nversion = 1\n")
    assert "# measured\nflops.f32" in text and "# NVLink\n[[link]]" in text


def test_odd_names_and_numbers_read_back(tmp_path: Path) -> None:
    flops = {"complex<f32>": 1e22, "f8E4M3FN": 1.1 + 2.2}
    device = Device('a "b"\n\\', flops, 7, 1.0, {1: 2.0, 10**6: 1e-7}, 3.0, 5e22, ("a", "b c"))
    cluster = Cluster("é\t", device, (Link(1, 0.0, 5e-324),))
    for part in (cluster, device, *cluster.links):  # a new key with a default is written, too
        for key in fields(part):
            empty = key.default if key.default_factory is MISSING else key.default_factory()
            assert getattr(part, key.name) != empty
    assert read(tmp_path, write_cluster(cluster)) == cluster


@pytest.mark.parametrize(
    ("stated", "dtype", "expected"),
    [
        ({"f32": 4.0, "bf16": 10.0}, "f32", 4.0),
        ({"f32": 4.0, "bf16": 10.0}, "f16", 10.0),
        ({"f32": 4.0, "f16": 10.0}, "bf16", 10.0),
        ({"f32": 4.0}, "bf16", 4.0),
        ({"f32": 4.0, "bf16": 10.0}, "f8E4M3FN", 10.0),
        ({"f32": 4.0, "bf16": 10.0, "f8": 20.0}, "f6E2M3FN", 20.0),
        ({"f32": 4.0, "bf16": 10.0}, "f4E2M1FN", 10.0),
        ({"f32": 4.0, "bf16": 10.0, "f8": 20.0}, "f8E5M2", 20.0),
        ({"f32": 4.0, "f8": 20.0, "f8E5M2": 18.0}, "f8E5M2", 18.0),
        ({"f32": 4.0, "bf16": 10.0}, "f64", 2.0),
        ({"f32": 4.0, "f64": 3.0}, "f64", 3.0),
        ({"f32": 4.0}, "complex<f32>", 1.0),
        ({"f32": 4.0}, "complex<f64>", 0.5),
        ({"f32": 4.0, "bf16": 10.0}, "i8", 10.0),
        ({"f32": 4.0, "i8": 30.0}, "ui8", 30.0),
        ({"f32": 4.0, "bf16": 10.0}, "i1", 10.0),
        ({"f32": 4.0, "bf16": 10.0}, "i32", 4.0),
        ({"f32": 4.0, "bf16": 10.0}, "i64", 2.0),
        ({"f32": 4.0}, "tf32", 4.0),
        ({"bf16": 10.0}, "f32", 5.0),
        ({"bf16": 10.0}, "f64", 2.5),
        ({"i8": 10.0}, "f32", 10.0),
        ({"f32": 4.0}, "!quant.uniform<i8:f32, 1.0>", 4.0),
    ],
)
def test_unstated_dtypes_are_priced_as_the_nearest(
    stated: dict[str, float], dtype: str, expected: float
) -> None:
    assert Device("d", stated, 1, 1.0).flops_per_second(dtype) == expected


def test_convolutions_by_width() -> None:
    device = Device("d", {"f32": 4.0}, 1, 1.0, {64: 1.0, 16: 0.25})
    shares = [device.convolution_share(features) for features in (1, 16, 32, 64, 512)]
    assert shares == pytest.approx([0.25, 0.25, 0.5, 1.0, 1.0])
    assert Device("d", {"f32": 4.0}, 1, 1.0).convolution_share(16) == 1.0


def test_convolutions_of_a_file(tmp_path: Path) -> None:
    text = PLAIN.replace("memory_bytes", "convolution.8 = 0.1\nconvolution.16 = 1.2\nmemory_bytes")
    assert read(tmp_path, text).device.convolution == {8: 0.1, 16: 1.2}
    assert read(tmp_path, PLAIN).device.convolution == {}


def without(line: str) -> str:
    assert line in PLAIN
    return PLAIN.replace(line, "", 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (without("version = 1"), "version: missing; write version = 1"),
        (
            PLAIN.replace("version = 1", "version = 2"),
            "version: found 2, this autopar reads version = 1",
        ),
        (
            PLAIN.replace("version = 1", "version = true"),
            "version: found True, this autopar reads version = 1",
        ),
        ("colour = 'red'\n" + PLAIN, "colour: unknown; known here: version, name, device, link"),
        ("name = 3\n" + PLAIN, "name: found 3; give a string"),
        ("version = 1", "device: missing; write a table [device]"),
        ("version = 1\ndevice = 5", "device: found 5; give a table"),
        (
            PLAIN.replace("memory_bytes", "memory"),
            "device.memory: unknown; known here: kind, jax_kinds, flops, convolution, "
            "memory_bytes, memory_bandwidth, elementwise, transcendental",
        ),
        (
            PLAIN.replace("memory_bytes", "jax_kinds = ['H100']\nmemory_bytes"),
            "device.jax_kinds: found ['H100']; give a list of words in lower case",
        ),
        (
            PLAIN.replace("memory_bytes", "jax_kinds = 'h100'\nmemory_bytes"),
            "device.jax_kinds: found 'h100'; give a list of words in lower case",
        ),
        (without("memory_bytes = 16e9"), "device.memory_bytes: missing; give a number"),
        (
            PLAIN.replace("16e9", "'16GB'"),
            "device.memory_bytes: found '16GB'; give a number",
        ),
        (
            PLAIN.replace("16e9", "0"),
            "device.memory_bytes: found 0; give a number from 1 to 1e+18",
        ),
        (
            PLAIN.replace("4e12", "-1"),
            "device.flops.f32: found -1; give a number from 1 to 1e+24",
        ),
        (
            PLAIN.replace("4e12", "nan"),
            "device.flops.f32: found nan; give a number from 1 to 1e+24",
        ),
        (
            PLAIN.replace("4e12", "1" + 400 * "0"),
            f"device.flops.f32: found 1{400 * '0'}; give a number from 1 to 1e+24",
        ),
        (
            PLAIN.replace("16e9", "0.5"),
            "device.memory_bytes: found 0.5; give a number from 1 to 1e+18",
        ),
        (
            PLAIN.replace("16e9", "1e19"),
            "device.memory_bytes: found 1e+19; give a number from 1 to 1e+18",
        ),
        (
            PLAIN.replace("alpha = 5e-5", "alpha = 1e9"),
            "link 1: alpha: found 1000000000.0; give a number from 0 to 1000",
        ),
        (PLAIN.replace("4e12", "true"), "device.flops.f32: found True; give a number"),
        (
            PLAIN.replace("flops.f32", "flops.float32"),
            "device.flops.float32: not an element type; f32, bf16, f16, f64, i8 … are",
        ),
        (
            PLAIN.replace("flops.f32 = 4e12\nflops.bf16 = 10e12", "flops = {}"),
            "device.flops: empty; state flops.f32 and flops.bf16",
        ),
        (
            PLAIN.replace("flops.f32 = 4e12\nflops.bf16 = 10e12", ""),
            "device.flops: missing; write a table [device.flops]",
        ),
        (
            PLAIN.replace("memory_bytes", "convolution = 0.5\nmemory_bytes"),
            "device.convolution: found 0.5; give a table",
        ),
        (
            PLAIN.replace("memory_bytes", "convolution.wide = 0.5\nmemory_bytes"),
            "device.convolution.wide: not a number of output features; 16, 64 … are",
        ),
        (
            PLAIN.replace("memory_bytes", "convolution.16 = 0\nmemory_bytes"),
            "device.convolution.16: found 0; give a number of at least 1e-09",
        ),
        (PLAIN.partition("[[link]]")[0], "link: missing; write at least one [[link]] table"),
        (
            "link = [3]\n" + PLAIN.partition("[[link]]")[0],
            "link 0: found 3; give a table",
        ),
        (
            PLAIN.replace("size = 64", "size = 8"),
            "link 1: size: found 8 after 8; write links from the innermost out, each joining more "
            "devices than the one before",
        ),
        (
            PLAIN.replace("size = 64", "size = 12"),
            "link 1: size: found 12 after 8; a link joins whole blocks of the one before: write a "
            "multiple",
        ),
        (
            PLAIN.replace("flops.f32", "flops.f33"),
            "device.flops.f33: not an element type; f32, bf16, f16, f64, i8 … are",
        ),
        (
            PLAIN.replace("size = 64", "size = 64.5"),
            "link 1: size: found 64.5; give a whole number of devices",
        ),
        (without("size = 8"), "link 0: size: missing; give a whole number of devices"),
        (without("alpha = 5e-5"), "link 1: alpha: missing; give a number"),
        (
            PLAIN.replace("beta = 1e-9", "beta = inf"),
            "link 1: beta: found inf; give a number from 0 to 1000",
        ),
        (
            PLAIN.replace("beta = 1e-9", "gamma = 1"),
            "link 1: gamma: unknown; known here: size, alpha, beta",
        ),
    ],
)
def test_errors_name_file_key_and_remedy(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ClusterError) as error:
        read(tmp_path, text)
    assert str(error.value) == f"{tmp_path / 'mine.toml'}: {problem}"


def test_errors_of_files(tmp_path: Path) -> None:
    for given, said in {"8xh1000": "8xh1000", "": "''", str(tmp_path): str(tmp_path)}.items():
        with pytest.raises(ClusterError) as error:
            read_cluster(given)
        assert str(error.value) == (
            f"cluster {said}: neither a file nor a preset; presets: {', '.join(preset_names())}"
        )
    with pytest.raises(ClusterError, match=r"mine.toml: not TOML: .*line 1"):
        read(tmp_path, "version : 1")
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ClusterError, match=r"mine.toml: not a text file: "):
        read_cluster(tmp_path / "mine.toml")


def test_clusters_are_values() -> None:
    cluster = read_cluster("cpu")
    assert replace(cluster) == cluster
    with pytest.raises(AttributeError):
        cluster.name = "other"  # pyright: ignore[reportAttributeAccessIssue]
