"""The one location form that xDSL lacks: a range within a file; and locations that hold it."""

from __future__ import annotations

from xdsl.dialects.builtin import CallSiteLoc, FileLineColLoc, IntAttr, NameLoc, StringAttr
from xdsl.ir import Attribute, BuiltinAttribute, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.printer import Printer

from .unverified import unverified


@irdl_attr_definition
class FileLineColRange(ParametrizedAttribute, BuiltinAttribute):
    """`loc("file.py":5:11 to :48)`, as JAX emits for expressions."""

    name = "builtin.file_line_range"

    filename: StringAttr = param_def()
    line: IntAttr = param_def()
    column: IntAttr = param_def()
    end_line: IntAttr = param_def()
    end_column: IntAttr = param_def()

    def print_builtin(self, printer: Printer) -> None:
        with printer.in_location():
            printer.print_attribute(self.filename)
            end_line = "" if self.end_line == self.line else str(self.end_line.data)
            printer.print_string(
                f":{self.line.data}:{self.column.data} to {end_line}:{self.end_column.data}"
            )


def name_loc(name: str, location: Attribute) -> NameLoc:
    """`loc("name"(location))`. xDSL's own constructor refuses ranges."""
    return unverified(NameLoc, desc=StringAttr(name), location=location)


def call_site_loc(callee: Attribute, caller: Attribute) -> CallSiteLoc:
    """`loc(callsite(callee at caller))`. xDSL's own constructor refuses ranges."""
    return unverified(CallSiteLoc, callee=callee, caller=caller)


FileLocation = FileLineColLoc | FileLineColRange
