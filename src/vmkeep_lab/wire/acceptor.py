"""Accept Negotiate, Kerberos and NTLM ([MS-NLMP], [MS-SPNG]) with a host name and users of our own.

pyspnego's own acceptor takes its users from a file that the environment names, compares domains to the
letter, and gives this machine's name. The class below replaces those two steps and leaves the rest to it.
A host that has the keys of its services, in a keytab, is a member of their domain and lets its users in.
"""

import hmac
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from spnego._context import ContextProxy, GSSMech
from spnego._negotiate import NegotiateProxy
from spnego._ntlm import NTLMProxy
from spnego._ntlm_raw.crypto import compute_response_v2, hmac_md5, ntowfv1, ntowfv2, rc4k
from spnego._ntlm_raw.messages import (
    Authenticate,
    AvFlags,
    AvId,
    Challenge,
    FileTime,
    Negotiate,
    NegotiateFlags,
    NTClientChallengeV2,
    TargetInfo,
)
from spnego._spnego import NegTokenInit, unpack_token
from spnego.channel_bindings import GssChannelBindings
from spnego.exceptions import InvalidTokenError, NegotiateOptions, SpnegoError

MAX_TOKEN: Final = 16_384
_KERBEROS: Final = (GSSMech.kerberos.value, GSSMech._ms_kerberos.value)


class _NtlmAcceptor(NTLMProxy):
    """NTLMv2 for the users of a mapping, whatever domain they name."""

    def __init__(self, users: Mapping[str, str], host_name: str) -> None:
        # As an initiator pyspnego asks for no file of users; what it is given here is never sent.
        super().__init__("nobody", "nothing", usage="initiate")
        self.usage = "accept"
        self._users = {name.lower(): password for name, password in users.items()}
        self._host_name = host_name
        self._offered: tuple[Negotiate, Challenge] | None = None
        self.user = ""

    def _step_accept_negotiate(self, token: bytes) -> bytes:
        negotiate = Negotiate.unpack(token)
        flags = negotiate.flags | (
            NegotiateFlags.request_target
            | NegotiateFlags.ntlm
            | NegotiateFlags.always_sign
            | NegotiateFlags.target_info
            | NegotiateFlags.target_type_server
        )
        if flags & NegotiateFlags.unicode == 0:
            raise InvalidTokenError(context_msg="only Unicode is spoken here")
        flags &= ~NegotiateFlags.oem
        if flags & NegotiateFlags.extended_session_security:
            flags &= ~NegotiateFlags.lm_key
        short = self._host_name.partition(".")[0].upper()[:15]
        info = TargetInfo()
        info[AvId.nb_domain_name] = short  # a host without a domain names itself
        info[AvId.nb_computer_name] = short
        info[AvId.dns_domain_name] = self._host_name
        info[AvId.dns_computer_name] = self._host_name
        info[AvId.timestamp] = FileTime.now()
        challenge = Challenge(flags, os.urandom(8), target_name=short, target_info=info)
        self._temp_negotiate = negotiate
        self._temp_challenge = challenge
        return challenge.pack()

    def _step_accept_authenticate(
        self, token: bytes, channel_bindings: GssChannelBindings | None = None
    ) -> None:
        # Channel bindings are not looked at, as where they are configured as relaxed.
        negotiate, challenge = self._temp_negotiate, self._temp_challenge
        assert negotiate is not None
        assert challenge is not None
        auth = Authenticate.unpack(token)
        name = (auth.user_name or "").rpartition("\\")[2].partition("@")[0].lower()
        response = auth.nt_challenge_response or b""
        if name not in self._users or len(response) <= 24:
            raise InvalidTokenError(context_msg="no such user, or no NTLMv2")
        proof = NTClientChallengeV2.unpack(response[16:])
        key = ntowfv2(auth.user_name or "", ntowfv1(self._users[name]), auth.domain_name)
        expected, _, exchange_key = compute_response_v2(
            key,
            challenge.server_challenge,
            proof.challenge_from_client,
            proof.time_stamp,
            proof.av_pairs,
        )
        if not hmac.compare_digest(expected, response):
            raise InvalidTokenError(context_msg="wrong password")
        sealed = auth.flags & (NegotiateFlags.sign | NegotiateFlags.seal)
        if auth.flags & NegotiateFlags.key_exch and sealed:
            exchange_key = rc4k(exchange_key, auth.encrypted_random_session_key or b"")
        self._session_key = exchange_key
        if proof.av_pairs.get(AvId.flags, 0) & AvFlags.mic:
            given = auth.mic or b""
            auth.mic = b"\x00" * 16
            code = hmac_md5(exchange_key, negotiate.pack() + challenge.pack() + auth.pack())
            if not hmac.compare_digest(code, given):
                raise InvalidTokenError(context_msg="the messages were changed on their way")
        self._context_attr = auth.flags
        self._complete = True
        self.user = name


class Acceptor:
    """The authentication of one connection, from the first token to the sealed bodies.

    ``scheme`` is HTTP's, ``Negotiate`` or ``Kerberos``. ``binding`` is the certificate's (RFC 5929,
    section 4.1): a ticket that was bound to another channel is refused, one that was not bound is taken.
    """

    def __init__(
        self,
        users: Mapping[str, str],
        host_name: str,
        *,
        scheme: str = "Negotiate",
        keytab: Path | None = None,
        binding: bytes | None = None,
    ) -> None:
        self.scheme = scheme
        self._ntlm = _NtlmAcceptor(users, host_name)
        self._keytab = keytab
        self._binding = binding
        self._context: ContextProxy | None = None

    @property
    def user(self) -> str:
        """Who it is, in lower case; empty until the last token was right."""
        if self._context is None or not self._context.complete:
            return ""
        return self._ntlm.user or (self._context.client_principal or "").lower()

    def step(self, token: bytes) -> bytes | None:
        """Take a token; return the next one, b"" where none is needed, or None where it is refused."""
        if len(token) > MAX_TOKEN:
            return None
        try:
            if self._context is None:
                self._context, token = self._chosen(token)
            return self._context.step(token) or b""
        except Exception:  # noqa: BLE001 - pyspnego fails in many ways on tokens that are none
            return None

    def _chosen(self, token: bytes) -> tuple[ContextProxy, bytes]:
        """Return the mechanism for a first token, and of the token what is meant for that mechanism."""
        if self.scheme == "Kerberos":
            return self._kerberos(), token
        hello = unpack_token(token)
        offers = hello.mech_types if isinstance(hello, NegTokenInit) else []
        is_kerberos = offers[0] in _KERBEROS if offers else not token.startswith(b"NTLMSSP\0")
        if is_kerberos and self._keytab is not None:
            return _negotiating({GSSMech.kerberos: self._kerberos()}), token
        if is_kerberos and isinstance(hello, NegTokenInit):
            # A client that guessed wrong is told the right one; its guess is not looked at (RFC 4178, 4.2.1).
            token = NegTokenInit(offers).pack()
        return _negotiating({GSSMech.ntlm: self._ntlm}), token

    def _kerberos(self) -> ContextProxy:
        # They come with an extra, and only a host in a domain needs them.
        import gssapi
        from spnego._gss import GSSAPIProxy

        return GSSAPIProxy(
            usage="accept",
            options=NegotiateOptions.wrapping_winrm,
            channel_bindings=(
                None if self._binding is None else GssChannelBindings(application_data=self._binding)
            ),
            _gssapi_credential=gssapi.Credentials(usage="accept", store={"keytab": str(self._keytab)}),
        )

    def unseal(self, header: bytes, data: bytes) -> bytes | None:
        """Return what was sealed, or None where the signature is not this connection's."""
        assert self._context is not None, "nothing is sealed before the login"
        try:
            return self._context.unwrap_winrm(header, data)
        except (SpnegoError, ValueError):
            return None

    def seal(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the signature and the encrypted data."""
        assert self._context is not None, "nothing is sealed before the login"
        sealed = self._context.wrap_winrm(data)
        return sealed.header, sealed.data


def _negotiating(contexts: dict[GSSMech, ContextProxy]) -> NegotiateProxy:
    return NegotiateProxy(
        usage="accept", options=NegotiateOptions.wrapping_winrm, _negotiate_contexts=contexts
    )
