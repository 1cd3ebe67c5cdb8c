"""CIM values as the lab's rooms exchange them: instances, references, and the host's refusals."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Union

V2: Final = "root/virtualization/v2"
CIMV2: Final = "root/cimv2"

WBEM_E_FAILED: Final = 0x80041001
WBEM_E_NOT_FOUND: Final = 0x80041002
WBEM_E_ACCESS_DENIED: Final = 0x80041003
WBEM_E_INVALID_PARAMETER: Final = 0x80041008
WBEM_E_INVALID_NAMESPACE: Final = 0x8004100E
WBEM_E_INVALID_CLASS: Final = 0x80041010
WBEM_E_INVALID_QUERY: Final = 0x80041017
WBEM_E_PROVIDER_NOT_CAPABLE: Final = 0x80041024
WBEM_E_INVALID_METHOD: Final = 0x8004102E
WBEM_E_INVALID_METHOD_PARAMETERS: Final = 0x8004102F
WBEM_E_INVALID_OBJECT_PATH: Final = 0x8004103A

_PAIR: Final = r"""\w+=(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^,"']+)"""
_PATH: Final = re.compile(
    rf"""(?P<place>[^:"']+:)?(?P<class>\w+)(?:\.(?P<keys>{_PAIR}(?:,{_PAIR})*))?""", re.DOTALL
)
_KEY: Final = re.compile(r"""(\w+)=("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^,"']+)""", re.DOTALL)
_HOST: Final = ("\\\\", "//")


@dataclass(frozen=True)
class Ref:
    """A reference to an instance: its class and the values of its keys, as text."""

    class_name: str
    keys: tuple[tuple[str, str], ...]
    namespace: str = V2

    @classmethod
    def to(cls, class_name: str, namespace: str = V2, **keys: str) -> "Ref":
        return cls(class_name, tuple(sorted(keys.items())), namespace)

    @classmethod
    def from_path(cls, path: str, namespace: str = V2) -> "Ref":
        """Read a WMI object path; ``namespace`` stands where the path names none.

        ``\\\\HOST\\root\\virtualization\\v2:Class.Key="text",Other=5`` and its shorter forms; the host is
        ignored. WmiError where the text is none.
        """
        found = _PATH.fullmatch(path.strip())
        if not found:
            raise WmiError(WBEM_E_INVALID_OBJECT_PATH, f"not an object path: {path!r}")
        place, class_name, keys = found.group("place", "class", "keys")
        if place:
            namespace = place.removesuffix(":").replace("\\", "/")
            namespace = "/".join(namespace.lstrip("/").split("/")[1:]) if place[:2] in _HOST else namespace
        pairs = [(name, _unquoted(text)) for name, text in _KEY.findall(keys or "")]
        return cls(class_name, tuple(sorted(pairs)), namespace)

    def key(self, name: str) -> str:
        """Return one key's value; KeyError where it has none of that name."""
        return dict(self.keys)[name]

    def path(self) -> str:
        """Return the WMI object path, with the namespace and without a host."""
        pairs = (
            f'{name}="{text}"'
            for name, text in ((n, t.replace("\\", "\\\\").replace('"', '\\"')) for n, t in self.keys)
        )
        return f"{self.namespace}:{self.class_name}.{','.join(pairs)}"

    def folded(self) -> "Ref":
        """Return it in lower case: equal for references that a host takes for the same.

        Names and values of selectors are compared without case ([MS-WSMV] 3.1.4.1.2).
        """
        keys = sorted((name.lower(), text.lower()) for name, text in self.keys)
        return Ref(self.class_name.lower(), tuple(keys), self.namespace.lower())


@dataclass
class Instance:
    """An instance: its class and the properties that have a value; all others are null.

    Times are aware datetimes, intervals timedeltas, arrays lists. A property
    that the class does not have is a mistake, which the wire refuses to send.
    """

    class_name: str
    values: "dict[str, CimValue]" = field(default_factory=dict)
    namespace: str = V2


CimScalar = str | int | bool | datetime | timedelta | Ref | Instance
CimValue = Union[CimScalar, "list[CimScalar]", None]
Arguments = Mapping[str, CimValue]


class WmiError(Exception):
    """The provider's refusal, which a client gets as a SOAP fault; ``code`` is the HRESULT."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class CommandResult:
    """What a command on the host printed, as bytes of code page 65001, and its exit code."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0


def _unquoted(text: str) -> str:
    """Return the text of a key's value in an object path."""
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL) if text[0] in "\"'" else text
