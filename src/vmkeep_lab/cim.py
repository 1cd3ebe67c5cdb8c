"""CIM values as the lab's rooms exchange them: instances, references, and the host's refusals."""

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


@dataclass(frozen=True)
class Ref:
    """A reference to an instance: its class and the values of its keys, as text."""

    class_name: str
    keys: tuple[tuple[str, str], ...]
    namespace: str = V2

    @classmethod
    def to(cls, class_name: str, namespace: str = V2, **keys: str) -> "Ref":
        return cls(class_name, tuple(sorted(keys.items())), namespace)

    def key(self, name: str) -> str:
        """Return one key's value; KeyError where it has none of that name."""
        return dict(self.keys)[name]


@dataclass
class Instance:
    """An instance: its class and the properties that have a value; all others are null.

    Times are aware datetimes, intervals timedeltas, arrays lists. A property
    that the class does not have is a mistake, which the wire refuses to send.
    """

    class_name: str
    values: "dict[str, CimValue]" = field(default_factory=dict)
    namespace: str = V2


CimScalar = Union[str, int, bool, datetime, timedelta, Ref, Instance]
CimValue = Union[CimScalar, "list[CimScalar]", None]
Arguments = Mapping[str, CimValue]


class WmiError(Exception):
    """The provider's refusal, which a client gets as a SOAP fault; ``code`` is the HRESULT."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
