"""A Griffe extension that gives named tuples the signature of their constructor, which their fields define."""

from __future__ import annotations

from typing import Any

import griffe

KIND = griffe.ParameterKind.positional_or_keyword


class NamedTuples(griffe.Extension):
    """Adds the constructor that `typing.NamedTuple` makes."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Add the constructor to a class that derives from `typing.NamedTuple`."""
        if not any(str(base).rpartition(".")[2] == "NamedTuple" for base in cls.bases) or "__init__" in cls.members:
            return
        fields = [
            griffe.Parameter(name, annotation=field.annotation, kind=KIND, default=field.value)
            for name, field in cls.members.items()
            if isinstance(field, griffe.Attribute) and field.annotation is not None
        ]
        parameters = griffe.Parameters(griffe.Parameter("self", kind=KIND), *fields)
        cls.set_member("__init__", griffe.Function("__init__", parameters=parameters, parent=cls))
