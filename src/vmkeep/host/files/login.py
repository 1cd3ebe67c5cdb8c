"""Connect to one SMB server and sign in, protected or not at all."""

from collections.abc import Callable
from typing import Any, Final

from smbprotocol.exceptions import SMBAuthenticationError, SMBException, SMBResponseException
from smbprotocol.session import Session

from vmkeep.host import kerberos
from vmkeep.host.files import statuses
from vmkeep.host.files.connection import HardenedConnection
from vmkeep.host.files.credentials import Credentials
from vmkeep.host.files.errors import DialectUnsupported, LoginRefused, ProtectionImpossible
from vmkeep.host.files.wire import BROKEN, Wire, as_lost, cut

_OLDEST_DIALECT: Final = 0x0210
_CREDITS: Final = 512  # eight files read at once, four pieces of 16 credits each


def connect(
    address: str,
    port: int,
    credentials: Credentials,
    *,
    require_encryption: bool,
    timeout_s: float,
    look: Callable[[], None],
    previous_login: int = 0,
) -> Wire:
    """Connect and sign in; ``previous_login`` is a lost one, whose files the server shall close.

    Raises :class:`Lost` where nobody answers, LoginRefused, ProtectionImpossible, DialectUnsupported.
    """
    connection = HardenedConnection(address, port, timeout_s, look)
    connection.previous_session_id = previous_login
    try:
        _negotiate(connection, address, require_encryption, timeout_s)
        login = _sign_in(connection, address, credentials, require_encryption)
        wire = Wire(connection, login, address)
        connection.echo(sid=login.session_id, timeout=timeout_s, credit_request=_CREDITS)
    except BROKEN as error:
        cut(connection)
        raise as_lost(error) from error
    except BaseException:
        cut(connection)
        raise
    return wire


def _negotiate(
    connection: HardenedConnection, address: str, require_encryption: bool, timeout_s: float
) -> None:
    try:
        connection.connect(timeout=timeout_s)
    except SMBResponseException as error:
        raise DialectUnsupported(
            f"{address!r} does not agree to SMB 2.1 or later (status 0x{error.status:08X}).", address=address
        ) from error
    if connection.dialect < _OLDEST_DIALECT:
        raise DialectUnsupported(f"{address!r} offers nothing newer than SMB 2.0.", address=address)
    if require_encryption and not connection.supports_encryption:
        raise ProtectionImpossible(f"{address!r} does not offer SMB encryption.", address=address)


def _sign_in(
    connection: HardenedConnection, address: str, credentials: Credentials, require_encryption: bool
) -> Any:
    is_negotiated = credentials.auth == "negotiate"
    user, password = kerberos.account_of(credentials.user, credentials.password, is_negotiated=is_negotiated)
    login = Session(
        connection, user, password, require_encryption=require_encryption, auth_protocol=credentials.auth
    )
    try:
        if is_negotiated:
            kerberos.ask_domain(credentials.user, credentials.password)
        login.connect()
    except SMBResponseException as error:
        if error.status in statuses.CONNECTION_GONE:
            raise
        raise LoginRefused(
            f"{address!r} refuses the account {credentials.name} (status 0x{error.status:08X}).",
            address=address,
            status=error.status,
        ) from error
    except (SMBAuthenticationError, *kerberos.failures()) as error:
        raise _refused(address, credentials, error) from error
    except SMBException as error:
        # smbprotocol forgets the number of a guest, and of nobody else.
        if login.session_id is None:
            raise ProtectionImpossible(
                f"{address!r} takes {credentials.name} for a guest, whose answers nobody signs.",
                address=address,
            ) from error
        raise
    if not login.encrypt_data and not (login.signing_required and login.signing_key):
        raise ProtectionImpossible(f"{address!r} neither signs nor encrypts.", address=address)
    return login


def _refused(address: str, credentials: Credentials, error: Exception) -> LoginRefused:
    # smbprotocol wraps what pyspnego raises, but not what pyspnego lets through.
    if meaning := kerberos.meaning_of(error.__cause__ or error):
        return LoginRefused(
            f"{credentials.name} cannot sign in at {address!r}: {meaning.reason}.",
            hint=meaning.hint,
            address=address,
        )
    return LoginRefused(
        f"{credentials.auth} cannot sign {credentials.name} in at {address!r}.", address=address
    )
