"""The one location form that xDSL lacks: a range within a file."""

from __future__ import annotations

from xdsl.dialects.builtin import FileLineColLoc, IntAttr, StringAttr
from xdsl.ir import BuiltinAttribute, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.printer import Printer


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


FileLocation = FileLineColLoc | FileLineColRange
