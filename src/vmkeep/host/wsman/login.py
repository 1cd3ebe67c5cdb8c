"""Log in to a host: choose a scheme, exchange tokens, and hand out what seals messages.

pyspnego does the cryptography; it is imported when a login begins, because most
commands never talk to a host.
"""

import base64
import binascii
import logging
import re
import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from vmkeep.host import kerberos
from vmkeep.host.wsman.endpoint import Endpoint
from vmkeep.host.wsman.errors import (
    ClocksDisagree,
    HostError,
    HostNonsense,
    KerberosMissing,
    LoginImpossible,
    LoginRefused,
)
from vmkeep.host.wsman.sealing import KERBEROS, SPNEGO, Wrapped

if TYPE_CHECKING:
    from spnego import ContextProxy

# A word the host offers, and the pyspnego protocol that speaks it; the first that fits is taken.
_SCHEMES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "negotiate": (("Negotiate", "negotiate"), ("Kerberos", "kerberos"), ("NTLM", "ntlm")),
    "kerberos": (("Negotiate", "kerberos"), ("Kerberos", "kerberos")),
    "ntlm": (("Negotiate", "ntlm"), ("NTLM", "ntlm")),
}
_OFFER: Final = re.compile(r"(?:^|,)\s*([A-Za-z][\w-]*)(?:\s+([A-Za-z0-9+/]+={0,2})(?=\s*(?:,|$)))?")
_KINDS: Final[Mapping[str, type[HostError]]] = {
    "refused": LoginRefused,
    "impossible": LoginImpossible,
    "clocks": ClocksDisagree,
}
_SERVICE: Final = "HOST"  # each computer account of a domain has this service name


def offers(headers: Iterable[str]) -> dict[str, bytes]:
    """Read ``WWW-Authenticate``: scheme, in lower case, to the token that came with it."""
    found: dict[str, bytes] = {}
    for header in headers:
        for scheme, token in _OFFER.findall(header[:65536]):
            try:
                found.setdefault(scheme.lower(), base64.b64decode(token, validate=True))
            except binascii.Error as error:
                raise HostNonsense("the host sent a login token that is not Base64.") from error
    return found


class Login:
    """One login on one connection; its keys die with the connection."""

    def __init__(self, endpoint: Endpoint, offered: Iterable[str], certificate: bytes | None) -> None:
        """Choose a scheme among those offered. Raises LoginImpossible.

        ``certificate`` is the host's, in DER, for the channel binding.
        """
        self._endpoint = endpoint
        offered = set(offered)
        fitting = [pair for pair in _SCHEMES[endpoint.auth] if pair[0].lower() in offered]
        if not fitting:
            shown = ", ".join(sorted(repr(scheme) for scheme in offered)) or "nothing"
            raise LoginImpossible(
                f"{endpoint.url} offers {shown}; with auth {endpoint.auth!r} this machine cannot log in.",
                host=endpoint.url,
            )
        self._scheme, protocol = fitting[0]
        self.protocol = KERBEROS if self._scheme == "Kerberos" else SPNEGO
        self._context = self._new_context(protocol, certificate)
        self._steps = 0

    def _new_context(self, protocol: str, certificate: bytes | None) -> "ContextProxy":
        import spnego
        from spnego.channel_bindings import GssChannelBindings

        # At its finest level pyspnego writes down the tokens, from which a password can be guessed.
        logging.getLogger("spnego").setLevel(logging.WARNING)
        endpoint = self._endpoint
        binding = (
            None if certificate is None else GssChannelBindings(application_data=_end_point(certificate))
        )
        sealing = (
            spnego.NegotiateOptions.wrapping_winrm
            if endpoint.transport == "http"
            else spnego.NegotiateOptions.none
        )

        is_negotiated = protocol == "negotiate"
        user, password = kerberos.account_of(endpoint.user, endpoint.password, is_negotiated=is_negotiated)
        try:
            if is_negotiated:
                kerberos.ask_domain(endpoint.user, endpoint.password)
            return spnego.client(
                user,
                password,
                hostname=endpoint.address,
                service=_SERVICE,
                channel_bindings=binding,
                protocol=protocol,
                options=sealing,
            )
        except kerberos.failures() as error:
            raise self._translated(error) from error
        except ValueError as error:  # a user or a service that is none
            raise self._translated(error) from error

    @property
    def is_complete(self) -> bool:
        """Whether both sides have proved who they are."""
        return bool(self._context.complete)

    def step(self, token: bytes | None) -> str | None:
        """Take the host's token, and return the ``Authorization`` for the next request, if there is one.

        Raises LoginRefused, LoginImpossible, ClocksDisagree; HostNonsense for a token that is none.
        """
        self._steps += 1
        try:
            answer = self._context.step(token)
        except kerberos.failures() as error:
            raise self._translated(error) from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
            raise HostNonsense(
                f"{self._endpoint.url} sent a login token that cannot be read.", host=self._endpoint.url
            ) from error
        return None if answer is None else f"{self._scheme} {base64.b64encode(answer).decode('ascii')}"

    def wrap_winrm(self, data: bytes) -> Wrapped:
        """Seal a message with the key of this login."""
        return Wrapped(*self._context.wrap_winrm(data))

    def unwrap_winrm(self, header: bytes, data: bytes) -> bytes:
        """Open a sealed message. Raises HostNonsense for one that was not sealed for us."""
        from spnego.exceptions import SpnegoError

        try:
            return bytes(self._context.unwrap_winrm(header, data))
        except (SpnegoError, LookupError, TypeError, ValueError, struct.error) as error:
            raise HostNonsense(
                f"{self._endpoint.url} sent an answer whose seal is wrong: it was changed on its way, or "
                "meant for somebody else.",
                host=self._endpoint.url,
            ) from error

    def _translated(self, error: Exception) -> HostError:
        """Return our error for one of pyspnego's; its texts are the system's and not decided by."""
        url, user, kind = self._endpoint.url, self._endpoint.user, type(error).__name__
        auth, has_password = self._endpoint.auth, self._endpoint.password is not None
        if (auth == "kerberos" or (auth == "negotiate" and not has_password)) and kerberos.is_missing():
            return KerberosMissing(
                f"this machine lacks the library to log in to {url} by Kerberos.", host=url
            )
        if meaning := kerberos.meaning_of(error):
            who = "vmkeep" if user is None else f"the user {user!r}"
            return _KINDS[meaning.kind](
                f"{who} cannot log in to {url}: {meaning.reason}.", hint=meaning.hint, host=url, user=user
            )
        refused = kind in {"InvalidCredentialError", "CredentialsExpiredError"}
        # SPNEGO says no with a token of its own, which pyspnego calls invalid: the answer to our proof.
        if refused or (kind == "InvalidTokenError" and self._steps > 2):
            return LoginRefused(f"{url} or its domain refuses the user {user!r}.", host=url, user=user)
        if kind in {"InvalidTokenError", "BadMICError"}:
            return HostNonsense(f"{url} sent a login token that cannot be read.", host=url)
        return LoginImpossible(
            f"this machine cannot log in to {url} with auth {auth!r}: {str(error)!r}.",
            host=url,
        )


def _end_point(certificate: bytes) -> bytes:
    """Return the channel binding of a TLS server (RFC 5929, section 4.1)."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes

    try:
        signed_with = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError):
        signed_with = None  # an algorithm this machine cannot name; the binding's default stands
    weak = signed_with is None or signed_with.name in {"md5", "sha1"}
    digest = hashes.Hash(hashes.SHA256() if signed_with is None or weak else signed_with)
    digest.update(certificate)
    return b"tls-server-end-point:" + digest.finalize()
