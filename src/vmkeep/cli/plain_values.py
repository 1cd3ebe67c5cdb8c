"""Take words and paths of a command line as they are, without the validation library typer brings along.

typer (0.29) asks pydantic about every value, and importing pydantic takes
longer than importing typer. Words, paths, flags and defaults need no
validation; everything else goes typer's way, and all of it does should a later
typer work differently.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

from typer.core import TyperArgument, TyperOption

from vmkeep.errors import UsageError

_PLAIN: Final = (str, bool, int)
_UNKNOWN: Final = object()
# Wishes about a path that are typer's to judge.
_PATH_WISHES: Final = ("exists", "writable", "resolve_path", "allow_dash", "path_type")
_METHOD: Final = "get_runtime_param"  # gives the object whose coerce() converts a parameter's value


class _PlainValue:
    """Converts the values of one parameter; has typer's own conversion made only where it is needed."""

    def __init__(self, parameter: Any, usual: Callable[[Any], Any]) -> None:
        self._parameter = parameter
        self._usual = usual
        descriptor = parameter.type_descriptor
        self._info = descriptor.parameter_info
        self._type = descriptor.annotation if self._info.parser is None else _UNKNOWN
        self._are_paths = Path in (self._type, *get_args(self._type))

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if self._are_paths and "" in (value if isinstance(value, tuple) else (value,)):
            # Python takes it for the current folder.
            raise UsageError("an empty text names no file.")
        if value is None or (type(value) is self._type and type(value) in _PLAIN):
            return value
        if self._type is Path and isinstance(value, str) and self._is_simple(value):
            return Path(value)
        return self._usual(self._parameter).coerce(value, param=param, ctx=ctx)

    def _is_simple(self, path: str) -> bool:
        wished = any(getattr(self._info, wish) for wish in _PATH_WISHES)
        restricted = not (self._info.file_okay and self._info.dir_okay)
        return not (wished or restricted) and (not os.path.exists(path) or os.access(path, os.R_OK))


def _plain_first(usual: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda parameter: _PlainValue(parameter, usual)


for _kind in (TyperArgument, TyperOption):
    if hasattr(_kind, _METHOD):
        setattr(_kind, _METHOD, _plain_first(getattr(_kind, _METHOD)))
