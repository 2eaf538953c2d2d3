"""Where the values of a function lie, as deciding goes along, and how the program is told."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr
from xdsl.ir import Attribute, BlockArgument, Operation, OpResult, SSAValue

from autopar.dialects.autopar import SHARDING, ShardingAttr, entries_of, sharding_of
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.tensors import is_splittable, item_bytes, shape_of
from autopar.passes.importing.annotations import rank_problem, stated_shardings

from .specs import AxisTable, PartialAxes, Spec
from .strategy import TensorUse


class ValueSpecs:
    """The spec of each value that deciding has reached, and what the program itself says of values.

    Attributes and specs that many values share are made once.
    """

    def __init__(self, table: AxisTable) -> None:
        self.table = table
        self.of: dict[SSAValue, Spec] = {}
        self._annotations: dict[tuple[int, int, int], Spec] = {}
        """By the identity of the sharding attribute of an op, that of a result's type, and the
        result's number: the spec that it states, without partials."""
        self._at_boundary: dict[int, Spec] = {}
        """By the identity of a sharding attribute of a function's argument or result."""
        self._keep: list[Attribute] = []  # attributes whose identity is a key
        self._attrs: dict[Spec, ShardingAttr] = {}
        self._result_attrs: dict[tuple[Spec, ...], ArrayAttr[ShardingAttr]] = {}
        self._uses: dict[tuple[Spec, int], TensorUse] = {}

    # ---- what the program says ----

    def annotated(self, value: SSAValue) -> Spec:
        """What the IR says of a value, without partials; replicated where it says nothing."""
        if type(value) is OpResult:
            attr = value.op.attributes.get(SHARDING)
            if attr is not None and is_splittable(value.type):
                key = (id(attr), id(value.type), value.index)
                spec = self._annotations.get(key)
                if spec is None:
                    spec = self._annotations[key] = self._of_result(value, attr)
                    self._keep += (attr, value.type)
                return spec
        sharding = sharding_of(value)
        if sharding is None or not is_splittable(value.type):
            return self.replicated(value)
        return self.table.spec(sharding).with_partial(())

    def at_boundary(
        self, attrs: ArrayAttr[DictionaryAttr] | None, values: Sequence[SSAValue]
    ) -> list[Spec | None]:
        """What `arg_attrs` or `res_attrs` of a function say of its arguments or results."""
        specs: list[Spec | None] = []
        for entry in entries_of(attrs, len(values)):
            attr = entry.data.get(SHARDING)
            specs.append(self._stated(attr) if isinstance(attr, ShardingAttr) else None)
        return specs

    def _stated(self, attr: ShardingAttr) -> Spec:
        spec = self._at_boundary.get(id(attr))
        if spec is None:
            spec = self._at_boundary[id(attr)] = self.table.spec(attr.data)
            self._keep.append(attr)
        return spec

    def _of_result(self, value: OpResult, attr: Attribute) -> Spec:
        """What an op's attribute says of a result; DiagnosticError where it does not fit."""
        op, rank = value.op, len(shape_of(value.type))
        sharding = stated_shardings(op, attr)[value.index].data
        problem = rank_problem(sharding, rank)
        if problem is not None:
            raise DiagnosticError(op, f"'{op.name}' op: sharding <{sharding}> {problem}")
        return self.table.spec(sharding).with_partial(())

    def demanded_partial(self, value: SSAValue) -> PartialAxes:
        """What the annotation of a value wants to stay partial."""
        sharding = sharding_of(value)
        if sharding is None or not sharding.partial:
            return ()
        return self.table.spec(sharding).partial

    # ---- where values lie ----

    def replicated(self, value: SSAValue) -> Spec:
        """The spec of a value that every device has whole."""
        return self.table.replicated(len(shape_of(value.type)))

    def resolved(self, value: SSAValue) -> Spec:
        """Where a value is to lie once it is no longer partial."""
        spec = self.of[value]
        if not spec.partial:
            return spec
        if isinstance(value, BlockArgument) or sharding_of(value) is None:
            return spec.with_partial(())
        return self.annotated(value)

    def record(self, op: Operation, specs: Sequence[Spec]) -> None:
        """Writes the shardings of the results and remembers them."""
        op.attributes[SHARDING] = self.result_attr(tuple(specs))
        for result, spec in zip(op.results, specs, strict=True):
            self.of[result] = spec

    def result_attr(self, specs: tuple[Spec, ...]) -> ArrayAttr[ShardingAttr]:
        """The attribute of an op whose results lie so."""
        attr = self._result_attrs.get(specs)
        if attr is None:
            attr = self._result_attrs[specs] = ArrayAttr([self.attr(spec) for spec in specs])
        return attr

    def attr(self, spec: Spec) -> ShardingAttr:
        """A spec as an attribute, on the refined grid."""
        attr = self._attrs.get(spec)
        if attr is None:
            attr = self._attrs[spec] = ShardingAttr(self.table.sharding(spec))
        return attr

    def use(self, value: SSAValue, spec: Spec) -> TensorUse:
        """A value and a spec as the choice of a strategy reads them."""
        key = (spec, id(value.type))
        use = self._uses.get(key)
        if use is None:
            use = TensorUse(spec, shape_of(value.type), item_bytes(value.type))
            self._uses[key] = use
        return use
