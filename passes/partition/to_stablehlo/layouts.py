"""How global arguments and results lie on the devices, as attributes of the boundary."""

from __future__ import annotations

from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    StringAttr,
    TensorType,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute

from autopar.dialects.autopar import (
    GLOBAL,
    LAYOUT,
    SHARDING,
    ShardingAttr,
    entries_of,
)
from autopar.dialects.sharding import Axes
from autopar.dialects.unverified import dictionary


def write_layouts(func: FuncOp) -> None:
    """Turns autopar.sharding and autopar.global of a function's boundary into autopar.layout."""
    is_public = func.sym_visibility is None or func.sym_visibility.data != "private"
    layouts: dict[tuple[int, int], DictionaryAttr] = {}  # by identity of sharding and type
    inputs, outputs = func.function_type.inputs.data, func.function_type.outputs.data
    for key, attrs, types in (
        ("arg_attrs", func.arg_attrs, inputs),
        ("res_attrs", func.res_attrs, outputs),
    ):
        entries: list[DictionaryAttr] = []
        for entry, type in zip(entries_of(attrs, len(types)), types, strict=True):
            data = dict(entry.data.items())
            sharding, whole = data.pop(SHARDING, None), data.pop(GLOBAL, type)
            data.pop(LAYOUT, None)
            if is_public:
                place = (id(sharding), id(whole))
                layout = layouts.get(place)
                if layout is None:
                    layout = layouts[place] = _layout(sharding, whole)
                data[LAYOUT] = layout
            entries.append(dictionary(data))
        if types:
            func.properties[key] = ArrayAttr(entries)


def _layout(sharding: Attribute | None, whole: Attribute) -> DictionaryAttr:
    if not isinstance(whole, TensorType):
        return DictionaryAttr({})
    if not isinstance(sharding, ShardingAttr):
        dims: list[Axes] = [()] * whole.get_num_dims()
        partial = ()
    else:
        dims = [dim.axes for dim in sharding.data.dims]
        partial = sharding.data.partial
    layout: dict[str, Attribute] = {
        "dims": ArrayAttr([_names(axes) for axes in dims]),
        "global": whole,
    }
    if partial:
        layout["partial"] = DictionaryAttr({p.kind: _names(p.axes) for p in partial})
    return DictionaryAttr(layout)


def _names(axes: Axes) -> ArrayAttr[StringAttr]:
    return ArrayAttr([StringAttr(axis.spelled) for axis in axes])
