"""Who reads the host's files."""

from dataclasses import dataclass
from typing import Literal

from vmkeep.secrets import Secret


@dataclass(frozen=True)
class Credentials:
    """An account of the host or its domain: ``user``, ``DOMAIN\\user`` or ``user@realm``."""

    user: str
    password: Secret
    auth: Literal["negotiate", "ntlm", "kerberos"] = "negotiate"
