"""The sdy dialect, judged by jaxlib: we read what it prints and it reads what we print."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from xdsl.context import Context
from xdsl.dialects import builtin, func
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import ParseError, VerifyException

from autopar.dialects.sdy import MeshOp, OpShardingRuleAttr, Sdy, TensorShardingAttr
from autopar.dialects.sdy.attributes import factor_symbol
from autopar.dialects.sharding import AxisRef, DimSharding, Partial, Sharding

ALL_OPS = Path(__file__).parent / "sdy_all_ops.mlir"

ATTRIBUTES = [
    '#sdy.sharding<@m, [{"x"}p0, {"y":(1)2, ?}p1, {?}, {}], replicated={"z"}, unreduced={"w"}>',
    "#sdy.sharding<@m, []>",
    '#sdy.sharding<@"a b", [{"x"}]>',
    '#sdy.sharding<mesh<["x"=2], device_ids=[1, 0]>, [{"x"}]>',
    "#sdy.sharding<mesh<[], device_ids=[3]>, []>",
    "#sdy.sharding_per_value<[]>",
    '#sdy.sharding_per_value<[<@m, [{"x"}]>, <@m, []>]>',
    '#sdy.mesh<["x"=2, "y"=4], device_ids=[7, 6, 5, 4, 3, 2, 1, 0]>',
    "#sdy.mesh<[]>",
    "#sdy<manual_axes{}>",
    '#sdy<manual_axes{"x", "y"}>',
    '#sdy<axis_ref_list{"x", "y":(1)2}>',
    '#sdy<list_of_axis_ref_lists[{"x"}, {}]>',
    '#sdy<all_to_all_param_list[{"y"}: 0->1, {"x"}: 1->2]>',
    '#sdy<all_to_all_param{"y"}: 0->1>',
    '#sdy<axis_ref"x":(1)2>',
    "#sdy<sub_axis_info(1)2>",
    '#sdy<mesh_axis"x"=2>',
    '#sdy<dimension_sharding{"x", ?}p1>',
    "#sdy<tensor_mapping[i, jk]>",
    "#sdy.op_sharding_rule<([])->([])>",
    "#sdy.op_sharding_rule<([i, k], [k, j])->([i, j]) {i=8, j=4, k=16} reduction={k}>",
    "#sdy.op_sharding_rule<([ij, k], [k, l])->([ij, l]) {i=4, j=2, k=16, l=8} reduction={k} "
    "need_replication={i} permutation={j} blocked_propagation={i, j}, custom>",
    '#sdy<axis_to_propagation_details{"x" = result-0 -> [operand-0]}>',
    '#sdy<propagation_one_step{step-5 = [{"x" = result-0 -> [operand-0]}]}>',
    '#sdy.propagation_edges<[{step-2 = [{"y" = operand-1 -> [operand-0, result-0]}]}]>',
]


def context() -> Context:
    ctx = Context(allow_unregistered=True)
    for dialect in (builtin.Builtin, func.Func, Sdy):
        ctx.load_dialect(dialect)
    return ctx


def parse(text: str) -> builtin.ModuleOp:
    module = Parser(context(), text).parse_module()
    module.verify()
    return module


def generic(module: builtin.ModuleOp) -> str:
    stream = StringIO()
    Printer(stream=stream, print_generic_format=True).print_op(module)
    return stream.getvalue()


def jaxlib_generic(text: str) -> str:
    mlir = pytest.importorskip("jax._src.interpreters.mlir")
    with mlir.make_ir_context():
        module = mlir.ir.Module.parse(text)
        return module.operation.get_asm(print_generic_op_form=True)


@pytest.mark.parametrize("text", ATTRIBUTES)
def test_attribute_round_trip(text: str) -> None:
    attr = Parser(context(), text).parse_attribute()
    assert str(attr) == text
    assert type(attr).__module__.endswith("sdy.attributes")


@pytest.mark.parametrize("text", ATTRIBUTES)
def test_attributes_are_jaxlibs(text: str) -> None:
    mlir = pytest.importorskip("jax._src.interpreters.mlir")
    with mlir.make_ir_context():
        assert str(mlir.ir.Attribute.parse(text)) == text


def test_every_op_round_trips_through_jaxlib() -> None:
    text = jaxlib_generic(ALL_OPS.read_text())
    module = parse(text)
    known = {op.name for op in module.walk() if op.name.startswith("sdy.")}
    assert known == {op.name for op in Sdy.operations}
    assert jaxlib_generic(generic(module)) == text
    assert jaxlib_generic(str(module)) == text, "the pretty forms"


def test_pretty_forms_are_read() -> None:
    module = parse(jaxlib_generic(ALL_OPS.read_text()))
    again = parse(str(module))
    assert str(again) == str(module)


def test_payload() -> None:
    attr = Parser(context(), ATTRIBUTES[0]).parse_attribute()
    assert isinstance(attr, TensorShardingAttr)
    assert attr.data.sharding == Sharding(
        "m",
        (
            DimSharding((AxisRef("x"),), False, 0),
            DimSharding((AxisRef("y", 1, 2),), True, 1),
            DimSharding((), True),
            DimSharding(),
        ),
        (AxisRef("z"),),
        (Partial("sum", (AxisRef("w"),)),),
    )


def test_many_factors() -> None:
    dims = ", ".join(factor_symbol(i) for i in range(20))
    sizes = ", ".join(f"{factor_symbol(i)}=2" for i in range(20))
    text = f"#sdy.op_sharding_rule<([{dims}])->([z_1z_2]) {{{sizes}}}>"
    attr = Parser(context(), text).parse_attribute()
    assert isinstance(attr, OpShardingRuleAttr)
    assert attr.data.results == (((18, 19),),)
    assert attr.data.operands[0][17:] == ((17,), (18,), (19,))
    assert str(attr) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#sdy.op_sharding_rule<([a])->([i]) {i=2}>", "expected factors from i to z"),
        ("#sdy.op_sharding_rule<([i])->([i]) {j=2}>", "factor sizes stand in order"),
        ('#sdy.sharding<@m, [{?, "x"}]>', "Expected '}'"),
    ],
)
def test_parse_errors(text: str, message: str) -> None:
    with pytest.raises(ParseError) as error:
        Parser(context(), text).parse_attribute()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ('["x"=2, "x"=2]', 'axis name "x" is used twice'),
        ('["x"=2], device_ids=[0, 2]', "permutation of 0 to 1, found [0, 2]"),
    ],
)
def test_mesh_verifier(mesh: str, message: str) -> None:
    with pytest.raises(VerifyException) as error:
        parse(f"sdy.mesh @m = <{mesh}>")
    assert message in str(error.value)
    assert "'sdy.mesh' op @m" in str(error.value)


def test_computation_verifier() -> None:
    text = parse(jaxlib_generic(ALL_OPS.read_text()))
    bad = generic(text).replace(
        'in_shardings = #sdy.sharding_per_value<[<@mesh, [{"x"}, {}]>]>',
        "in_shardings = #sdy.sharding_per_value<[]>",
    )
    with pytest.raises(VerifyException) as error:
        parse(bad)
    assert "has 0 in_shardings for 1 operands" in str(error.value)
    assert isinstance(next(iter(text.ops)), MeshOp)
