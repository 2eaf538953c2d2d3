"""What `autopar.parallelize` says about wrong input: one line, with the place and the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import autopar
from autopar.methods import resolve_method
from autopar.passes.importing.annotate_method import AnnotateMethodPass
from autopar.passes.importing.methods import METHODS, MethodName

DEVICES = np.array(autopar.local_devices()[:8])
MESH = Mesh(DEVICES.reshape(2, 4), ("data", "model"))
SMALL = Mesh(DEVICES[:4], ("data",))
PARAMS = {"a": np.ones((16, 32), np.float32)}
X = np.ones((16, 16), np.float32)


def step(params: Any, x: Any) -> Any:
    return params, jnp.mean((x @ params["a"]) ** 2)


def run(fn: Any = step, *args: Any, **options: Any) -> Any:
    options.setdefault("method", "dp")
    return autopar.parallelize(fn, **options)(*(args or (PARAMS, X)))


def debug_print(params: Any, x: Any) -> Any:
    jax.debug.print("{}", x.sum(), ordered=True)
    return step(params, x)


def in_scan(params: Any, x: Any) -> Any:
    def body(carry: Any, row: Any) -> Any:
        shape = jax.ShapeDtypeStruct((), row.dtype)
        return carry + io_callback(np.sum, shape, row, ordered=True), None

    return params, jax.lax.scan(body, 0.0, x)[0]


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "axis that does not exist": (
        lambda: run(mesh=MESH, in_shardings=(None, P("dta"))),
        "in_shardings of x: P('dta',) names axis 'dta', the mesh's axes are data, model",
    ),
    "axis used twice": (
        lambda: run(mesh=MESH, in_shardings=(None, P("data", "data"))),
        "names axis 'data' twice",
    ),
    "rank": (
        lambda: run(mesh=MESH, in_shardings=(None, P("data", None, "model"))),
        "has 3 entries, the array has 2 dimensions",
    ),
    "size": (
        lambda: run(step, PARAMS, X[:7], mesh=MESH, in_shardings=(None, P("data"))),
        "dimension 0 of size 7 is not divisible over data=2",
    ),
    "prefix": (
        lambda: run(mesh=MESH, in_shardings=({"c": P()}, None)),
        "in_shardings is no prefix of the arguments' pytree",
    ),
    "spec without mesh": (
        lambda: run(in_shardings=(None, P("data"))),
        "needs a mesh: give mesh= or use `with jax.set_mesh(mesh):`",
    ),
    "out axis": (lambda: run(mesh=MESH, out_shardings=P("z")), "out_shardings: P('z',) names axis"),
    "out size": (
        lambda: run(lambda x: x[:7], X, mesh=MESH, batch_argnums=0, out_shardings=P("data")),
        "out_shardings of result 0: dimension 0 of size 7 is not divisible over data=2",
    ),
    "prefix length": (
        lambda: run(mesh=MESH, in_shardings=(P(),)),
        "different lengths of tuple at in_shardings: give one entry, or None, for each argument",
    ),
    "prefix inside": (
        lambda: run(mesh=MESH, out_shardings=([P()], P())),
        "at out_shardings[0]: give one entry, or None, for each result",
    ),
    "too few devices": (
        lambda: run(mesh=(4, 4)),
        "mesh=(4, 4) needs 16 devices, there are 8: call autopar.init(devices=16)",
    ),
    "mesh text": (
        lambda: autopar.parallelize(step, mesh="8"),
        "mesh='8': expected a jax.sharding.Mesh or a shape of one to 4 whole numbers",
    ),
    "mesh of fractions": (
        lambda: autopar.parallelize(step, mesh=(2.0, 4)),
        "mesh=(2.0, 4): expected a jax.sharding.Mesh or a shape of one to 4 whole numbers",
    ),
    "mesh of a method": (
        lambda: autopar.DataParallel(mesh="2x4"),
        "mesh='2x4': expected a jax.sharding.Mesh or a shape of one to 4 whole numbers",
    ),
    "empty mesh": (
        lambda: autopar.parallelize(step, mesh=Mesh(DEVICES[:0], ("q",))),
        "mesh: the Mesh (q=0) has no devices; give it at least one",
    ),
    "option of a method": (
        lambda: autopar.Zero3Parallel(options={"small": 1}),
        "options of Zero3Parallel: 'small' is unknown; known options: small_tensor_elements",
    ),
    "value of an option": (
        lambda: autopar.Zero3Parallel(options={"small_tensor_elements": "x"}),
        "small_tensor_elements='x': expected a whole number of at least 0",
    ),
    "batch axis of auto-shard": (
        lambda: autopar.AutoShardParallel(batch_axis="data"),
        "AutoShardParallel takes it among its options: options={'batch_axis': 'data'}",
    ),
    "batch axis of shard": (
        lambda: autopar.ShardParallel(batch_axis="data"),
        "batch_axis='data': ShardParallel lays nothing out by itself",
    ),
    "option of shard": (
        lambda: autopar.ShardParallel(options={"small_tensor_elements": 4}),
        "options={'small_tensor_elements': 4}: ShardParallel lays nothing out by itself",
    ),
    "two meshes": (
        lambda: autopar.parallelize(step, method=autopar.DataParallel(mesh=[2, 4]), mesh=8),
        "mesh=(8,): the method has mesh=(2, 4); give one of them",
    ),
    "two counts of microbatches": (
        lambda: autopar.parallelize(
            step, method=autopar.DataParallel(num_micro_batches=2), num_micro_batches=4
        ),
        "num_micro_batches=4: the method has num_micro_batches=2; give one of them",
    ),
    "solver that nobody registered": (
        lambda: run(method=autopar.AutoShardParallel(options={"solver": "mine"})),
        "options of AutoShardParallel: solver='mine' is unknown; registered: none; import the "
        "module that calls register_solver",
    ),
    "options that are no dict": (
        lambda: autopar.AutoShardParallel(options=cast(Any, None)),
        "options=None: expected a dict of names and values",
    ),
    "reduction": (
        lambda: autopar.DataParallel(micro_batch_reduction="max"),
        "micro_batch_reduction='max': expected 'mean' or 'sum'",
    ),
    "microbatches of a method": (
        lambda: autopar.DataParallel(num_micro_batches=0),
        "num_micro_batches=0: expected a whole number of at least 1",
    ),
    "scalar batch": (
        lambda: run(lambda w, s: w * s, X, np.float32(1), batch_argnums=(1,)),
        "batch_argnums=(1,): s is a scalar, it has no batch dimension: leave it out",
    ),
    "method": (lambda: run(method="ddp"), "known methods: auto, alpa, dp"),
    "list": (lambda: run(method=["dp"]), "method=['dp'] is unknown; known methods: auto"),
    "method_class": (
        lambda: run(method=autopar.Zero2Parallel),
        "give a method, Zero2Parallel()",
    ),
    "batch axis": (
        lambda: run(method=autopar.DataParallel(batch_axis="q"), mesh=(2, 4)),
        "batch_axis='q': the mesh's axes are data, model",
    ),
    "microbatches": (
        lambda: run(num_micro_batches=3),
        "num_micro_batches=3 does not divide the batch of 16 of x: choose a divisor of 16",
    ),
    "microbatches of nothing": (
        lambda: run(lambda x: x * 2, X, num_micro_batches=2),
        "no argument looks like a batch; say batch_argnums",
    ),
    "ambiguous batch": (
        lambda: run(lambda x, y: (x.sum(), y.sum()), X, X[:4]),
        "ambiguous, their first dimensions differ: x (16), y (4); say batch_argnums",
    ),
    "static position": (
        lambda: run(static_argnums=5),
        "static_argnums=(5,): the function takes 2 positional arguments",
    ),
    "static name": (
        lambda: run(static_argnames="q"),
        "the function has no argument 'q' (its arguments: params, x)",
    ),
    "unhashable": (
        lambda: run(lambda x, sizes: x, X, [1], static_argnums=1),
        "static argument sizes is a list, which is not hashable",
    ),
    "static and donated": (
        lambda: run(static_argnums=0, donate_argnums=0),
        "argument 0 cannot be both static and donated",
    ),
    "donate text": (lambda: run(donate_argnums="params"), "expected positions, or 'auto'"),
    "text argument": (
        lambda: run(lambda x, mode: x, X, "train"),
        "mode is a str, neither an array nor a number: name its argument in static_argnums",
    ),
    "argument on other devices": (
        lambda: run(step, PARAMS, jax.device_put(X, NamedSharding(SMALL, P("data"))), mesh=(8,)),
        "x lies on 4 devices, the program runs on 8: place it with jax.device_put",
    ),
    "followed argument on other devices": (
        lambda: run(
            step,
            PARAMS,
            jax.device_put(X, NamedSharding(SMALL, P("data"))),
            mesh=MESH,
            method="shard",
        ),
        "the sharding of x is on a mesh of 4 devices, the program's mesh has 8",
    ),
    "ordered print": (lambda: run(debug_print), "ordered effects (debug_print) cannot run"),
    "ordered callback in a loop": (
        lambda: run(in_scan, batch_argnums=1),
        "ordered effects (io_callback) cannot run",
    ),
    "late init": (
        lambda: autopar.init(devices=64),
        "call autopar.init(devices=64) before the first JAX computation, or export XLA_FLAGS",
    ),
    "cluster": (lambda: autopar.init(cluster="ray"), "cluster='ray' is not available"),
    "plan before a run": (lambda: autopar.parallelize(step).plan, "nothing has run yet"),
    "explicit sharding under a method that decides": (
        lambda: run(
            lambda x: jax.sharding.reshard(x, P("data")), X, mesh=jax.make_mesh((8,), ("data",))
        ),
        "explicit axes of the mesh count as Auto under method 'dp', which decides itself",
    ),
    "plan with an argument by keyword": (
        lambda: autopar.plan(step, PARAMS, x=X),
        "plan: 'x' is no option of parallelize; keyword arguments of the function go by "
        "autopar.parallelize(fn, …).lower(…, x=…).plan",
    ),
    "plan with an option of its method": (
        lambda: autopar.plan(step, PARAMS, X, cluster="8xh100"),
        "plan: 'cluster' is an option of the method: "
        "method=autopar.AutoShardParallel(options={'cluster': …})",
    ),
    "level": (
        lambda: autopar.parallelize(step, method="dp").lower(PARAMS, X).as_text("hlo"),
        "level 'hlo' is unknown; levels: stablehlo, sharded",
    ),
    "no function": (lambda: autopar.parallelize(3), "parallelize expects a function, got int"),
}


@pytest.mark.parametrize("case", CASES)
def test_message(case: str) -> None:
    call, expected = CASES[case]
    with pytest.raises(Exception) as caught:
        call()
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message


def test_ordered_effects_name_the_users_line() -> None:
    with pytest.raises(ValueError, match=r"test_parallelize_errors\.py:\d+:\d+ \(debug_print\)"):
        run(debug_print)


def test_what_a_method_says_as_well() -> None:
    method = autopar.DataParallel(mesh=(2, 4), num_micro_batches=2)
    found = autopar.plan(step, PARAMS, X, method=method, mesh=[2, 4], num_micro_batches=2)
    assert (found.mesh.devices.shape, found.num_micro_batches) == ((2, 4), 2)


def test_ref() -> None:
    counter = jax.new_ref(jnp.zeros(()))

    def counting(x: Any) -> Any:
        counter[...] += 1
        return x

    with pytest.raises(ValueError, match=r"writes to a jax\.Ref"):
        run(counting, X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PARAMS, X[:8]), "x is float32[8,16], the program was compiled for float32[16,16]: call "),
        (({"a": np.ones((16, 32), np.int32)}, X), "params['a'] is int32[16,32], the program was"),
        ((PARAMS, 1.0), "x is a Python float, the program was compiled for float32[16,16]: call "),
        ((PARAMS,), "the arguments are PyTreeDef"),
    ],
)
def test_compiled_program_names_what_differs(arguments: tuple[Any, ...], message: str) -> None:
    program = autopar.parallelize(step, method="dp").lower(PARAMS, X).compile()
    with pytest.raises(TypeError) as caught:
        program(*arguments)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(": call the parallelized function instead")


def test_compiled_program_names_what_lies_elsewhere() -> None:
    def place(*spec: str | None) -> Any:
        return jax.device_put(X, NamedSharding(MESH, P(*spec)))

    program = autopar.parallelize(step, method="shard").lower(PARAMS, place("data")).compile()
    with pytest.raises(TypeError) as caught:
        program(PARAMS, place(None, "model"))
    assert "x lies as P(None, 'model'), the program was compiled for P('data'" in str(caught.value)


def test_deleted_argument() -> None:
    function = autopar.parallelize(step, method="dp", donate_argnums=0)
    params = jax.tree.map(jnp.asarray, PARAMS)
    function(params, X)
    with pytest.raises(RuntimeError, match="deleted"):
        function(params, X)


def test_init_twice_and_shutdown() -> None:
    autopar.init(devices=4)
    assert len(autopar.local_devices()) == 4
    autopar.shutdown()
    assert len(autopar.local_devices()) == len(jax.devices())
    autopar.init(devices=8)
    assert len(autopar.local_devices()) == 8


def test_one_list_of_methods() -> None:
    """Every string of `parallelize` but those of auto-shard is one of the pass, and documented."""
    names = autopar.method_names(aliases=True)
    assert names[:2] == ("auto", "alpa") and set(autopar.method_names()) < set(names)
    classes = {type(resolve_method(name)).__name__ for name in autopar.method_names()}
    pass_doc = AnnotateMethodPass.__doc__ or ""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "methods.md").read_text(encoding="utf-8")
    doc = autopar.parallelize.__doc__ or ""
    readme = (root / "README.md").read_text(encoding="utf-8")
    lit_test = root / "lit_tests" / "passes" / "importing" / "annotate_method.mlir"
    runs = re.findall(r"method=(\w+)", lit_test.read_text(encoding="utf-8"))
    spelled = f"--method {'|'.join(autopar.method_names())} "
    lacking = {
        "METHODS, or methods.py": sorted(set(names[2:]) ^ set(METHODS)),
        "MethodName, or METHODS": sorted({*get_args(MethodName)} ^ set(METHODS)),
        "annotate-method": [name for name in METHODS if f"`{name}`" not in pass_doc],
        "autopar.__all__": sorted(classes - set(autopar.__all__)),
        "README.md": [] if spelled in readme else [spelled],
        "docs/methods.md": [name for name in names if f"`{name}`" not in page],
        "parallelize": [n for n in names if n != "alpa" and f'"{n}"' not in doc],
        lit_test.name: [name for name in METHODS if name not in runs],
    }
    assert not any(lacking.values()), lacking


def test_array_that_was_donated_before() -> None:
    step = autopar.parallelize(
        lambda state, x: (state + x.sum(), x.sum()), method="zero3", donate_argnums=0
    )
    state, x = jnp.ones((8, 128)), jnp.ones((8, 2))
    step(state, x)
    with pytest.raises(RuntimeError, match="state has been deleted, as what an earlier call"):
        step(state, x)


def test_arguments_of_the_wrong_type() -> None:
    with pytest.raises(TypeError, match=r"batch_argnums=1.0: expected ints"):
        autopar.parallelize(lambda x: x, batch_argnums=1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="method='' is unknown"):
        autopar.parallelize(lambda x: x, method="")
