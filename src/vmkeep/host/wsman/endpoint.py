"""Describe where a host listens, how it is addressed, and who asks."""

import ipaddress
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from vmkeep.host.wsman.errors import EndpointUnusable
from vmkeep.secrets import Secret

Transport = Literal["https", "http"]
Auth = Literal["negotiate", "kerberos", "ntlm"]

_PORTS: Final = {"https": 5986, "http": 5985}
_AUTHS: Final = ("negotiate", "kerberos", "ntlm")
_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,253})")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One host's WS-Management listener and the account that asks.

    Over ``https`` the certificate is always verified: against ``ca_file`` alone
    if it is given, else against the system's authorities. Over ``http`` every
    message is signed and sealed with the key of the login; there is no way to
    send one in clear text, and no Basic. ``user`` is DOMAIN\\user or
    user@domain; without one the ticket of the process is used.
    Raises EndpointUnusable.
    """

    address: str
    user: str | None = None
    password: Secret | None = None
    transport: Transport = "https"
    port: int | None = None
    auth: Auth = "negotiate"
    ca_file: Path | None = None
    connect_timeout_s: float = 10.0
    operation_timeout_s: float = 60.0  # more than 60 s the host silently cuts down (MaxTimeoutms)

    def __post_init__(self) -> None:
        if not (_is_ipv6(self.address) or _NAME.fullmatch(self.address)):
            raise EndpointUnusable(f"{self.address!r} is not a host name or an IP address.")
        if self.transport not in _PORTS:
            raise EndpointUnusable(f"transport is {self.transport!r}; it is 'https' or 'http'.")
        if self.auth not in _AUTHS:
            raise EndpointUnusable(
                f"auth is {self.auth!r}; it is one of {', '.join(_AUTHS)}. Basic would tell the password."
            )
        if self.transport == "http" and self.ca_file is not None:
            raise EndpointUnusable("ca_file is given, but transport is 'http', which has no certificates.")
        if self.port is not None and not 0 < self.port < 65536:
            raise EndpointUnusable(f"{self.port} is not a TCP port.")
        if (self.user is None) != (self.password is None) and self.auth == "ntlm":
            raise EndpointUnusable("auth is 'ntlm', which needs a user and a password.")
        if self.auth == "kerberos" and "\\" in (self.user or "") and sys.platform != "win32":
            raise EndpointUnusable(
                f"auth is 'kerberos', and {self.user!r} names no realm.",
                hint="Write the user as user@REALM, the domain's DNS name in capitals.",
            )
        if self.connect_timeout_s <= 0 or self.operation_timeout_s <= 0:
            raise EndpointUnusable("a timeout is more than 0 seconds.")

    @property
    def tcp_port(self) -> int:
        """The port, or the one that Windows listens on."""
        return self.port or _PORTS[self.transport]

    @property
    def url(self) -> str:
        """The address requests are sent to."""
        address = f"[{self.address}]" if _is_ipv6(self.address) else self.address
        return f"{self.transport}://{address}:{self.tcp_port}/wsman"


def _is_ipv6(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).version == 6 and "%" not in address
    except ValueError:
        return False
