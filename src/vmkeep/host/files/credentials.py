"""Who reads the host's files."""

from dataclasses import dataclass
from typing import Literal

from vmkeep.secrets import Secret


@dataclass(frozen=True)
class Credentials:
    """An account of the host or its domain: ``user``, ``DOMAIN\\user`` or ``user@realm``.

    Without a password it is a ticket that counts, without a user whoever's ticket the process has.
    """

    user: str | None
    password: Secret | None
    auth: Literal["negotiate", "ntlm", "kerberos"] = "negotiate"

    @property
    def name(self) -> str:
        """Who it is, for a sentence."""
        return "the owner of the ticket" if self.user is None else repr(self.user)
