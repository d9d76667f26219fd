"""Cheap conversion of arguments.

Typer converts each argument, a plain string too, by a pydantic adapter: the first one
imports pydantic, which takes longer than all else that a short command does (190 ms of
300). The commands here need strings, integers and choices only, so `lighten` gives every
parameter a converter of its own for these.

The converter's place is an attribute that Typer keeps to itself. Should a later Typer look
elsewhere, its own conversion goes on as if this module did not exist; a test watches that
no command imports pydantic.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import typer
from typer.core import TyperGroup


class Converter:
    """Stands in for Typer's own, for one parameter."""

    def __init__(self, annotation: Any, least: float | None, most: float | None) -> None:
        self._many = get_origin(annotation) is list
        self._type = get_args(annotation)[0] if self._many else annotation
        self._least = least
        self._most = most

    @classmethod
    def handles(cls, annotation: Any) -> bool:
        if get_origin(annotation) is list:
            annotation = get_args(annotation)[0]
        return annotation in (str, int, bool) or get_origin(annotation) is Literal

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as its annotation wants it. Raises typer.BadParameter."""
        try:
            if self._many or param.nargs == -1:
                return [] if value is None else [self._one(item) for item in value]
            return None if value is None else self._one(value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None

    def _one(self, value: Any) -> Any:
        if get_origin(self._type) is Literal:
            choices = get_args(self._type)
            if value not in choices:
                raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
            return value
        if self._type is not int:
            return value
        try:
            number = int(value)
        except ValueError:
            raise ValueError(f"{value!r} is not an integer") from None
        if self._least is not None and number < self._least:
            raise ValueError(f"{number} is less than {self._least}")
        if self._most is not None and number > self._most:
            raise ValueError(f"{number} is more than {self._most}")
        return number


def lighten(command: Any, parent: Any = None) -> None:
    """Give the parameters of a command, and of the commands below it, cheap converters.

    `parent` is the context of the command above it, None for the topmost.
    """
    context = typer.Context(command, parent=parent, **command.context_settings)
    for param in command.get_params(context):  # with --help, which is not among `params`
        descriptor = getattr(param, "type_descriptor", None)
        if descriptor is not None and Converter.handles(descriptor.annotation):
            info = descriptor.parameter_info
            param._runtime_param = Converter(descriptor.annotation, info.min, info.max)
    if isinstance(command, TyperGroup):
        for below in command.commands.values():
            lighten(below, context)
