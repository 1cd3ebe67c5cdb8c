"""Say what Kerberos' refusals mean, and what it is asked with (RFC 4120; MIT's and Windows' numbers).

On Linux its library comes with the extra `kerberos`; on Windows it is the system's.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from vmkeep.secrets import Secret

if TYPE_CHECKING:
    from spnego import Credential

_TICKET: Final = (
    "Get one with `kinit` (KRB5CCNAME says where it lies), or set password_file or password_command."
)
_REALM: Final = (
    "Name the realm and its KDC in krb5.conf or DNS, and write the user as user@REALM, in capitals."
)
_CENTRE: Final = (
    "Check the way to the domain's controllers, port 88 of TCP and UDP; krb5.conf or DNS names them."
)
_SERVICE: Final = "Set `address` to the host's full name as its domain knows it; an IP address has no key."
_CONFIGURATION: Final = "Correct krb5.conf, or the file that KRB5_CONFIG names."


class Meaning(NamedTuple):
    """What one of Kerberos' numbers says; without a hint the error's own stands.

    ``refused``: the account may not; ``impossible``: nobody was asked; ``clocks``: they disagree.
    """

    kind: Literal["refused", "impossible", "clocks"]
    reason: str
    hint: str | None = None


_NO_TICKET: Final = Meaning("impossible", "there is no ticket that could be used", _TICKET)
_NO_SERVICE: Final = Meaning("impossible", "the domain knows no host of this name", _SERVICE)
_NO_CENTRE: Final = Meaning("impossible", "no KDC of the user's domain answers", _CENTRE)
_NO_REALM: Final = Meaning("impossible", "this machine knows no KDC for the user's domain", _REALM)
_BAD_CONFIGURATION: Final = Meaning("impossible", "its configuration cannot be read", _CONFIGURATION)
_UNKNOWN_USER: Final = Meaning("refused", "the domain knows no such user")
_LOCKED: Final = Meaning("refused", "the account is locked or disabled")
_EXPIRED: Final = Meaning("refused", "the password's time is over")
_WRONG: Final = Meaning("refused", "the password is wrong")
_SKEW: Final = Meaning("clocks", "the clocks disagree")

_MEANINGS: Final[Mapping[int, Meaning]] = {
    # RFC 4120 7.5.9 and the library's own, counted from MIT's base 0x96C73A00.
    0x96C73A01: Meaning("refused", "the account's time is over"),
    0x96C73A06: _UNKNOWN_USER,
    0x96C73A07: _NO_SERVICE,
    0x96C73A0E: Meaning("impossible", "this machine and the domain have no encryption in common"),
    0x96C73A12: _LOCKED,
    0x96C73A17: _EXPIRED,
    0x96C73A18: _WRONG,
    0x96C73A1F: _WRONG,  # where the KDC asks for no proof first, its answer cannot be opened
    0x96C73A20: Meaning("impossible", "the ticket's time is over", _TICKET),
    0x96C73A21: _SKEW,  # a ticket that is not valid yet
    0x96C73A25: _SKEW,
    0x96C73A87: _BAD_CONFIGURATION,
    0x96C73A88: _BAD_CONFIGURATION,
    0x96C73A8D: _NO_TICKET,
    0x96C73A94: _SKEW,  # seen by this machine, in the KDC's answer
    0x96C73A9A: _NO_REALM,
    0x96C73A9C: _NO_CENTRE,
    0x96C73AC3: _NO_TICKET,
    0x96C73AE0: _NO_REALM,
    # Windows.
    0x80090303: _NO_SERVICE,  # SEC_E_TARGET_UNKNOWN
    0x8009030C: Meaning("refused", "user or password is wrong"),  # SEC_E_LOGON_DENIED
    0x8009030E: _NO_TICKET,  # SEC_E_NO_CREDENTIALS
    0x80090311: _NO_CENTRE,  # SEC_E_NO_AUTHENTICATING_AUTHORITY
    0x80090324: _SKEW,  # SEC_E_TIME_SKEW
    0xC000006D: Meaning("refused", "user or password is wrong"),  # STATUS_LOGON_FAILURE
    0xC0000071: _EXPIRED,  # STATUS_PASSWORD_EXPIRED
}
# After one of these a second attempt would be one too many.
_FINAL: Final = frozenset({_WRONG, _LOCKED, _EXPIRED})


def is_missing() -> bool:
    """Tell whether this machine lacks the library, or a part of it."""
    if sys.platform == "win32":
        return False
    try:
        for name in ("gssapi", "krb5"):
            importlib.import_module(name)
    except ImportError:
        return True
    return False


def failures() -> tuple[type[Exception], ...]:
    """Return what pyspnego raises when it gets or uses credentials; not what is raised by nonsense."""
    from spnego.exceptions import FeatureMissingError, SpnegoError

    known = (SpnegoError, FeatureMissingError, ImportError)
    try:
        from krb5 import Krb5Error  # comes through pyspnego as it is
    except ImportError:
        return known
    return (*known, Krb5Error)


def meaning_of(error: BaseException) -> Meaning | None:
    """Return what the first number that is known means, in an error or in what it wraps."""
    return next((_MEANINGS[number] for number in _numbers(error) if number in _MEANINGS), None)


def account_of(
    user: str | None, password: Secret | None, *, is_negotiated: bool
) -> "tuple[str | list[Credential] | None, str | None]":
    """Return what pyspnego is given as user and password; without a password it is a ticket that counts.

    Where the scheme is negotiated, only user@REALM is for Kerberos: the password of DOMAIN\\user, or of
    a host's own account, would be tried on whoever has that name in the machine's default realm.
    """
    text = None if password is None else password.reveal().decode("utf-8", "surrogateescape")
    if not is_negotiated or user is None or text is None or "@" in user or sys.platform == "win32":
        return user, text
    import spnego

    # The first that fits is taken: for Kerberos a ticket that does not exist.
    return [spnego.KerberosCCache("MEMORY:vmkeep has no ticket"), spnego.Password(user, text)], None


def ask_domain(user: str | None, password: Secret | None) -> None:
    """Let the domain of user@REALM judge a password first where the scheme is negotiated.

    What it refuses is tried by no other scheme, as each attempt counts towards locking the account;
    Windows does so by itself. Raises one of ``failures`` then, and nothing where no domain was found.
    """
    if user is None or password is None or "@" not in user or sys.platform == "win32" or is_missing():
        return
    import spnego

    try:
        spnego.client(user, account_of(user, password, is_negotiated=False)[1], protocol="kerberos")
    except failures() as error:
        if meaning_of(error) in _FINAL:
            raise


def _numbers(error: BaseException) -> Iterator[int]:
    seen: Any = error
    for _ in range(4):  # Negotiate wraps the mechanism's error, and that one the library's
        for name in ("err_code", "min_code", "winerror"):
            if isinstance(number := getattr(seen, name, None), int):
                yield number & 0xFFFFFFFF
        seen = getattr(seen, "base_error", None)
