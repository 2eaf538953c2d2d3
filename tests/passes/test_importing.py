"""Into and out of autopar's spelling of shardings, judged by jaxlib and by running programs."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import FileLineColLoc, ModuleOp
from xdsl.parser import Parser
from xdsl.utils.exceptions import VerifyException

from autopar.dialects import make_context
from autopar.dialects.diagnostics import DiagnosticError, collect_remarks
from autopar.dialects.sharding import AxisRef
from autopar.lowering.importer import import_module
from autopar.lowering.mlir_context import merge_equal_ops
from autopar.lowering.parse import parse_module
from autopar.passes.importing.convert_mesh_to_shard import convert_mesh_to_shard
from autopar.passes.importing.export_sdy import export_sdy
from autopar.passes.importing.import_sdy import import_sdy
from autopar.passes.importing.inline import inline
from autopar.passes.importing.meshes import merge_axes, overlap, refine_together, translate_axes
from autopar.passes.importing.methods import METHODS
from autopar.passes.importing.shard_attributes_to_ops import shard_attributes_to_ops
from autopar.passes.importing.shard_ops_to_attributes import shard_ops_to_attributes
from autopar.passes.manager import PipelineError, build_pipeline, run_pipeline

MLIR_OPT = shutil.which("mlir-opt-22") or shutil.which("mlir-opt")


def parse(text: str, *, verify: bool = True) -> ModuleOp:
    module = Parser(make_context(), text, "user.mlir").parse_module()
    if verify:
        module.verify()
    return module


# ---- Several meshes ------------------------------------------------------------------------------

A = (("x", 2), ("y", 4))


def test_axes_of_one_mesh_in_another() -> None:
    b = (("a", 4), ("b", 2))
    x, y = AxisRef("x"), AxisRef("y")
    assert translate_axes((AxisRef("a"),), b, A) == (x, AxisRef("y", 1, 2))
    assert translate_axes((AxisRef("b"),), b, A) == (AxisRef("y", 2, 2),)
    assert translate_axes((AxisRef("a"), AxisRef("b")), b, A) == (x, y)
    assert translate_axes((x, AxisRef("y", 1, 2)), A, b) == (AxisRef("a"),)
    assert translate_axes((x,), A, b) == (AxisRef("a", 1, 2),)
    assert translate_axes((y, x), A, (("u", 8),)) == (AxisRef("u", 2, 4), AxisRef("u", 1, 2))
    assert translate_axes((x,), A, (("one", 1), ("u", 8))) == (AxisRef("u", 1, 2),)
    assert translate_axes((AxisRef("p"),), (("p", 2), ("q", 3)), (("r", 3), ("s", 2))) is None


def test_refinement_and_overlap() -> None:
    assert refine_together([A, (("a", 4), ("b", 2)), (("u", 8),)])
    assert not refine_together([(("p", 2), ("q", 3)), (("r", 3), ("s", 2))])
    assert merge_axes([AxisRef("y", 1, 2), AxisRef("y", 2, 2)], A) == (AxisRef("y"),)
    assert merge_axes([AxisRef("y", 2, 2), AxisRef("y", 1, 2)], A) == (
        AxisRef("y", 2, 2),
        AxisRef("y", 1, 2),
    )
    assert overlap([AxisRef("y", 1, 2), AxisRef("y", 2, 2)], A) is None
    assert overlap([AxisRef("y"), AxisRef("x"), AxisRef("y", 2, 2)], A) is not None


# ---- import-sdy ----------------------------------------------------------------------------------

MESH = 'sdy.mesh @mesh = <["x"=2, "y"=4]>\n'


def argument(sharding: str, type: str = "tensor<8x16xf32>") -> str:
    return f"func.func @main(%a: {type} {{sdy.sharding = #sdy.sharding<{sharding}>}}) {{ return }}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            MESH + argument('@mesh, [{"z"}, {}]'),
            'argument 0 of @main: sharding <@mesh, [{"z"}, {}]> on mesh @mesh: axis "z" does not '
            'exist; the axes are ["x"=2, "y"=4]',
        ),
        (
            MESH + argument('@mesh, [{"x"}, {"x"}]'),
            'argument 0 of @main: sharding <@mesh, [{"x"}, {"x"}]> uses axis "x" twice',
        ),
        (
            MESH + argument('@mesh, [{"y"}, {"y":(1)2}]'),
            'uses "y" and "y":(1)2, which overlap',
        ),
        (
            MESH + argument('@mesh, [{"x"}, {}], replicated={"x"}'),
            'uses axis "x" twice',
        ),
        (
            MESH + argument('@mesh, [{"x"}]'),
            'sharding <@mesh, [{"x"}]> has 1 dimensions, the value of type tensor<8x16xf32> has 2',
        ),
        (
            MESH + argument('@mesh, [{"y":(1)3}, {}]'),
            'sub-axis "y":(1)3 does not divide axis "y" of size 4',
        ),
        (
            MESH + argument('@mesh, [{"y":(1)4}, {}]'),
            'sub-axis "y":(1)4 does not divide axis "y" of size 4',
        ),
        (
            argument('@mesh, [{"x"}, {}]'),
            "is on mesh @mesh, which the module does not declare (declared: none)",
        ),
        (
            MESH
            + 'sdy.mesh @b = <["x"=4]>\n'
            + argument('@b, [{"x"}, {}]').replace("main", "f")
            + "\n"
            + argument('@mesh, [{"x"}, {}]'),
            "mesh @b has 4 devices and mesh @mesh 8: one program runs on one set of devices",
        ),
        (
            MESH
            + 'sdy.mesh @b = <["x"=8], device_ids=[7, 6, 5, 4, 3, 2, 1, 0]>\n'
            + argument('@b, [{"x"}, {}]').replace("main", "f")
            + "\n"
            + argument('@mesh, [{"x"}, {}]'),
            "meshes @b and @mesh order their devices differently",
        ),
        (
            'sdy.mesh @p = <["x"=2, "y"=3]>\nsdy.mesh @q = <["x"=3, "y"=2]>\n'
            + argument('@p, [{"x"}, {}]').replace("main", "f")
            + "\n"
            + argument('@q, [{"x"}, {}]'),
            "the meshes @p 2x3, @q 3x2 have no common refinement",
        ),
        (
            MESH + 'func.func @main(%a: tensor<8xf32>) {\n%0 = "t.op"(%a) {sdy.sharding = '
            "#sdy.sharding_per_value<[]>} : (tensor<8xf32>) -> tensor<8xf32>\nreturn }",
            "has 0 shardings for 1 results",
        ),
    ],
)
def test_import_errors(text: str, message: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        import_sdy(parse(text, verify=False))
    assert message in str(error.value)


def test_error_names_the_place() -> None:
    module = parse(MESH + argument('@mesh, [{"z"}, {}]'))
    from xdsl.dialects.builtin import IntAttr, StringAttr

    function = list(module.ops)[1]
    function.location = FileLineColLoc(StringAttr("step.py"), IntAttr(7), IntAttr(3))
    with pytest.raises(DiagnosticError) as error:
        import_sdy(module)
    assert str(error.value).startswith("step.py:7:3: error: argument 0 of @main")


def test_no_op_without_sdy() -> None:
    text = "func.func @main(%a: tensor<4xf32>) -> tensor<4xf32> { return %a : tensor<4xf32> }"
    module = parse(text)
    before = str(module)
    import_sdy(module)
    export_sdy(module)
    inline(module)
    shard_ops_to_attributes(module)
    shard_attributes_to_ops(module)
    convert_mesh_to_shard(module)
    assert str(module) == before


# ---- Round trips, judged by jaxlib ---------------------------------------------------------------


def jax_module() -> Any:
    """A step with shardings, constraints, shard_map and helpers, as JAX lowers it."""
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    if len(jax.devices()) < 8:
        pytest.skip("needs 8 devices")
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)

    @jax.jit
    def helper(a: Any) -> Any:
        return jnp.where(a > 0, a, 0.1 * a)

    def body(a: Any) -> Any:
        return jax.lax.psum(a * 2, "y")

    def step(a: Any, b: Any) -> Any:
        c = helper(a @ b) + helper(b.T @ a.T).T
        c = jax.lax.with_sharding_constraint(c, NamedSharding(mesh, P("x", "y")))
        d = jax.shard_map(body, mesh=mesh, in_specs=P("x", "y"), out_specs=P("x", None))(c)
        return d, jax.lax.fori_loop(0, 3, lambda i, v: helper(v) + i, c)

    shardings = NamedSharding(mesh, P("x", None)), NamedSharding(mesh, P(None, "y"))
    shapes = (jax.ShapeDtypeStruct((8, 16), "float32"), jax.ShapeDtypeStruct((16, 32), "float32"))
    lowered = jax.jit(step, in_shardings=shardings).lower(*shapes)
    return lowered.compiler_ir("stablehlo")


def sharding_lines(native: Any) -> list[str]:
    text = native.operation.get_asm(print_generic_op_form=True)
    return [line for line in text.splitlines() if "sdy" in line]


def test_import_then_export_is_what_jax_wrote() -> None:
    from autopar.lowering.exporter import export_module
    from autopar.lowering.importer import import_module

    native = jax_module()
    module = import_module(native)
    before = sharding_lines(export_module(module))
    import_sdy(module)
    module.verify()
    text = str(module)
    assert "sdy.mesh @" not in text and "sdy.sharding " not in text
    export_sdy(module)
    after = export_module(module)
    assert after.operation.verify()
    assert sharding_lines(after) == before


def test_inline_of_what_jax_wrote() -> None:
    from autopar.lowering.exporter import export_module
    from autopar.lowering.importer import import_module

    native = jax_module()
    module = import_module(native)
    assert any(op.name == "func.call" for op in module.walk())
    inline(module)
    module.verify()
    assert not any(op.name == "func.call" for op in module.walk())
    assert sum(op.name == "func.func" for op in module.walk()) == 1
    exported = export_module(module)
    assert exported.operation.verify()

    locations = [str(op.location) for op in module.walk() if "select" in op.name]
    assert locations and all("jit(step)" in location for location in locations)


def test_inline_keeps_ranges() -> None:
    """Positions of JAX's form "file":line:column to :column, with and without names."""
    module = parse_module(
        """
        func.func @main(%a: tensor<8xf32>) -> tensor<8xf32> {
          %0 = func.call @f(%a) : (tensor<8xf32>) -> tensor<8xf32> loc("call"("m.py":1:2 to :5))
          return %0 : tensor<8xf32>
        }
        func.func private @f(%a: tensor<8xf32>) -> tensor<8xf32> {
          %0 = stablehlo.tanh %a : tensor<8xf32> loc("t"("m.py":3:2 to :5))
          %1 = stablehlo.tanh %0 : tensor<8xf32> loc("m.py":4:2 to :5)
          %2 = stablehlo.tanh %1 : tensor<8xf32> loc(fused["m.py":5:2 to :5, "m.py":6:1])
          return %2 : tensor<8xf32>
        }"""
    )
    inline(module)
    first, second, third = (op.location for op in module.walk() if op.name == "stablehlo.tanh")
    assert str(first) == 'loc("call/t"("m.py":3:2 to :5))'
    assert str(second) == 'loc(callsite("m.py":4:2 to :5 at "call"("m.py":1:2 to :5)))'
    assert str(third).startswith('loc(callsite(fused["m.py":5:2 to :5, "m.py":6:1] at ')


def test_inlined_program_runs() -> None:
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    from jaxlib.mlir.dialects import stablehlo

    from autopar.lowering.exporter import export_module
    from autopar.lowering.importer import import_module

    @jax.jit
    def helper(a: Any, b: Any) -> Any:
        return jnp.where(a > b, a * b, a - b), b

    @jax.jit
    def outer(a: Any) -> Any:
        c, d = helper(a, a + 1)
        return helper(c, d)[0]

    def step(a: Any) -> Any:
        b = outer(a) + outer(a * 2)
        return helper(b, jax.lax.fori_loop(0, 2, lambda i, v: outer(v), a))

    a = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    module = import_module(jax.jit(step).lower(a).compiler_ir("stablehlo"))
    inline(module)
    module.verify()
    exported = export_module(module)
    with exported.context:
        from jaxlib.mlir import ir

        outputs = stablehlo.eval_module(exported, [ir.DenseElementsAttr.get(a)])
    for output, wanted in zip(outputs, step(a), strict=True):
        np.testing.assert_allclose(np.array(output), wanted, rtol=1e-6)


def test_what_calls_bring_in_is_merged_with_what_is_equal() -> None:
    """A forward pass that stands twice, through helpers that JAX compiles apart, once for its
    derivative: equal ops behind calls become equal one by one."""
    weights = [jax.ShapeDtypeStruct((8, 8), np.float32)] * 2

    def network(weights: Any, x: Any) -> Any:
        for weight in weights:
            x = jax.nn.leaky_relu(x @ weight)
        return jax.nn.softmax(x)

    def step(weights: Any, x: Any) -> Any:
        loss = jax.value_and_grad(lambda weights: jnp.mean(network(weights, x) ** 2))
        return loss(weights), network(weights, x)

    native = jax.jit(step).lower(weights, weights[0]).compiler_ir("stablehlo")
    merge_equal_ops(native)
    module = import_module(native)
    inline(module)
    once = Counter(op.name for op in module.walk())
    assert once["stablehlo.dot_general"] == 2 + 3 and once["stablehlo.exponential"] == 1
    run_pipeline(module, "builtin.module(cse)", make_context())
    assert Counter(op.name for op in module.walk()) == once


def test_what_has_effects_is_not_merged() -> None:
    module = parse("""
        func.func public @main(%0: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
            %1 = func.call @f(%0) : (tensor<f32>) -> tensor<f32>
            %2 = func.call @f(%0) : (tensor<f32>) -> tensor<f32>
            return %1, %2 : tensor<f32>, tensor<f32>
        }
        func.func private @f(%a: tensor<f32>) -> tensor<f32> {
            %0 = "stablehlo.optimization_barrier"(%a) : (tensor<f32>) -> tensor<f32>
            %1 = "stablehlo.sine"(%0) : (tensor<f32>) -> tensor<f32>
            return %1 : tensor<f32>
        }""")
    inline(module)
    assert sum(op.name == "stablehlo.sine" for op in module.walk()) == 2


def test_inline_is_linear() -> None:
    """Twice the calls take about twice the time (with a wide margin for a busy machine)."""

    def seconds(calls: int) -> float:
        lines = [
            f"%{i + 1} = func.call @f(%{i}) : (tensor<f32>) -> tensor<f32>" for i in range(calls)
        ]
        text = (
            "func.func public @main(%0: tensor<f32>) -> tensor<f32> {\n"
            + "\n".join(lines)
            + f"\nreturn %{calls} : tensor<f32> }}\n"
            "func.func private @f(%a: tensor<f32>) -> tensor<f32> {\n"
            + "\n".join(
                f'%{i} = "stablehlo.sine"(%a) : (tensor<f32>) -> tensor<f32>' for i in range(10)
            )
            + "\nreturn %9 : tensor<f32> }"
        )
        module = parse(text, verify=False)
        start = time.process_time()
        inline(module)
        found = time.process_time() - start
        assert (
            sum(op.name == "stablehlo.sine" for op in module.walk()) == calls
        )  # equal ones are one
        return found

    small = min(seconds(50) for _ in range(3))
    large = min(seconds(400) for _ in range(3))
    assert large < 8 * small * 3


# ---- The op form ---------------------------------------------------------------------------------

GRID = 'shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}\n'


def annotated(sharding: str, attribute: str = "", type: str = "tensor<8x16xf32>") -> str:
    return (
        f"{GRID}func.func @main(%a: {type}) {{\n"
        f"%s = shard.sharding @mesh split_axes = {sharding} {attribute} : !shard.sharding\n"
        f"%0 = shard.shard %a to %s : {type}\nreturn }}"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (annotated("[[0], [], [1]]"), "split_axes names 3 dimensions, the value of type"),
        (annotated("[[2]]"), "names grid axis 2; grid @mesh has 2 axes, 0 to 1"),
        (annotated("[[0], [0]]"), 'uses axis "x" twice'),
        (annotated("[[0]]", '{autopar.partial = "sum[0]"}'), 'uses axis "x" twice'),
        (annotated("[[0]]", '{autopar.partial = "avg[1]"}'), "unknown reduction kind avg"),
        (annotated("[[0]]", '{autopar.partial = "sum"}'), 'write it as "sum[1]"'),
        (annotated("[[0]]", '{autopar.sharding = "@mesh, {"}'), "autopar.sharding = '@mesh, {'"),
        (annotated("[[0]] halo_sizes = [1, 1]"), "halo_sizes are not supported"),
        (
            annotated("[[0]] sharded_dims_offsets = [0, 3, 8]"),
            "sharded_dims_offsets are not supported",
        ),
    ],
)
def test_op_form_errors(text: str, message: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        shard_ops_to_attributes(parse(text, verify=False))
    assert message in str(error.value)


def test_sub_axes_have_no_op_form() -> None:
    module = parse(
        f"{GRID}func.func @main(%a: tensor<8xf32> "
        '{autopar.sharding = #autopar.sharding<@mesh, [{"y":(1)2}]>}) { return }'
    )
    with pytest.raises(DiagnosticError) as error:
        shard_attributes_to_ops(module)
    assert 'no sub-axes, and a sharding uses "y":(1)2' in str(error.value)


@pytest.mark.skipif(MLIR_OPT is None, reason="mlir-opt (mlir-22-tools) is not installed")
def test_op_form_goes_through_mlir_opt() -> None:
    module = parse(
        f"{GRID}func.func @main(%a: tensor<8x4xf32> "
        '{autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {?}], partial={sum = ["y"]}>}) '
        '-> (tensor<8x4xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"y"}, {}]>}) {\n'
        '%0 = autopar.constraint %a {sharding = #autopar.sharding<@mesh, [{}, {"x"}]>} : '
        "tensor<8x4xf32>\n"
        "return %0 : tensor<8x4xf32> }"
    )
    attributes = str(module)
    shard_attributes_to_ops(module)
    assert MLIR_OPT is not None
    done = subprocess.run(
        [MLIR_OPT, "-"], input=str(module), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    back = parse(done.stdout)
    shard_ops_to_attributes(back)
    lines = [line.split("{", 1)[-1] for line in attributes.splitlines() if "autopar" in line]
    found = [line.split("{", 1)[-1] for line in str(back).splitlines() if "autopar" in line]
    assert found[0] == lines[0]
    assert [line.split(":")[0] for line in found[1:2]] == [
        line.split(":")[0] for line in lines[1:2]
    ]


# ---- The older mesh dialect, tosa ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ("mesh.shard %a to <@n, [[0]]> : tensor<8xf32>", "names mesh @n, which is not declared"),
        ("mesh.shard %a to <@m, [[2]]> : tensor<8xf32>", "mesh @m has no axis 2; it has 2 axes"),
        (
            "mesh.shard %a to <@m, [[0]], partial = sum[0]> : tensor<8xf32>",
            "uses mesh axis 0 twice",
        ),
        (
            "mesh.shard %a to <@m, [[0], [1]]> : tensor<8xf32>",
            "names 2 dimensions, the value of type tensor<8xf32> has 1",
        ),
        ("mesh.process_multi_index on @m : index", "has 1 results, expected 2"),
        (
            "tosa.matmul %b, %b : (tensor<1x2x3xf32>, tensor<1x2x3xf32>) -> tensor<1x2x3xf32>",
            "contracted dimensions of a and b differ: 3 and 2",
        ),
    ],
)
def test_mesh_and_tosa_verifiers(op: str, message: str) -> None:
    with pytest.raises(VerifyException) as error:
        parse(
            "mesh.mesh @m(shape = 2x4)\n"
            f"func.func @f(%a: tensor<8xf32>, %b: tensor<1x2x3xf32>) {{\n%0 = {op}\nreturn }}"
        )
    assert message in str(error.value)


def test_context_is_xdsls() -> None:
    assert isinstance(make_context(), Context)


ZERO3 = """
#forward = loc("jit(step)/jvp()/dot_general")
shard.grid @mesh(shape = 8) {axis_names = ["data"]}
func.func @main(
    %param: tensor<4096x4096xf32> {autopar.kind = "parameter"},
    %batch: tensor<32x4096xf32> {autopar.kind = "batch", autopar.batch_dim = 0 : i64})
    -> tensor<32x4096xf32> {
  %0 = stablehlo.dot %batch, %param
      : (tensor<32x4096xf32>, tensor<4096x4096xf32>) -> tensor<32x4096xf32> LOCATION
  return %0 : tensor<32x4096xf32>
}
"""


@pytest.mark.parametrize("location", ["", "loc(#forward)"])
def test_zero3_says_when_phases_are_not_known(location: str) -> None:
    """Text without locations has no phases: nothing would be gathered, without a word."""
    module = parse_module(ZERO3.replace("LOCATION", location))
    with collect_remarks() as remarks:
        run_pipeline(module, "annotate-method{method=zero3}", make_context())
    gathers = [op for op in module.walk() if op.name == "autopar.constraint"]
    if location:
        assert len(gathers) == 1 and not remarks
    else:
        (remark,) = remarks
        assert not gathers and remark.message.startswith(
            "no op that reads the 1 sharded parameters is known to belong to the forward or"
        )
        assert "as_text(debug_info=True)" in remark.message


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("annotate-method{method=ddp}", f"one of {', '.join(METHODS)}, found 'ddp'"),
        ("convert-shard-to-stablehlo{form=x}", "expected one of replica, partition, found 'x'"),
    ],
)
def test_options_of_a_few_words(pipeline: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        build_pipeline(pipeline)
