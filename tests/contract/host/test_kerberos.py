"""Logins by Kerberos: a KDC of MIT, the lab as a host of its realm, and all the ways in which it says no."""

import contextlib
import gc
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.kdc import PASSWORD, REALM, USER, Kdc
from tests.toy_host import VM_GUID, ToyHost
from vmkeep.clock import SystemClock
from vmkeep.host import kerberos
from vmkeep.host.wsman import (
    Client,
    Endpoint,
    EndpointUnusable,
    HostError,
    LoginImpossible,
    LoginRefused,
    Ref,
)
from vmkeep.secrets import Secret
from vmkeep_lab.wire.certificate import make_certificate
from vmkeep_lab.wire.server import Server
from vmkeep_lab.wire.settings import Settings

VM: Final = Ref(
    "root/virtualization/v2",
    "Msvm_ComputerSystem",
    {"CreationClassName": "Msvm_ComputerSystem", "Name": VM_GUID},
)
WRONG: Final = "canary-wrong-word"


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kdc]:
    with Kdc(tmp_path_factory.mktemp("realm") / "kdc") as kdc:
        yield kdc


@pytest.fixture
def kdc(realm: Kdc, monkeypatch: pytest.MonkeyPatch) -> Kdc:
    """The realm as this process sees it, without a ticket."""
    realm.configure()
    for name, value in realm.environment.items():
        monkeypatch.setenv(name, value)
    return realm


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("state"), "hv01.example.org")


@contextlib.contextmanager
def member(
    kdc: Kdc, certificate: tuple[Path, Path], settings: Settings | None = None, *, in_domain: bool = True
) -> Iterator[Server]:
    """A host of the realm, or one that only knows a user of its own by that name."""
    with Server(
        ToyHost(vms=3),
        {"backup": PASSWORD},
        host_name="hv01.example.org",
        settings=settings,
        certificate=certificate,
        keytab=kdc.keytab if in_domain else None,
    ) as server:
        yield server


def entered(
    server: Server,
    certificate: tuple[Path, Path],
    transport: str = "http",
    *,
    user: str | None = USER,
    password: str | None = PASSWORD,
    auth: str = "kerberos",
    address: str = "localhost",
    port: int | None = None,
) -> str | None:
    """Log in, ask for a VM, and return its name."""
    endpoint = Endpoint(
        address=address,
        user=user,
        password=None if password is None else Secret(password),
        transport=transport,  # type: ignore[arg-type]
        port=port or (server.http_port if transport == "http" else server.https_port),
        auth=auth,  # type: ignore[arg-type]
        ca_file=None if transport == "http" else certificate[0],
    )
    with Client(endpoint, SystemClock()) as client:
        client.identify()
        return client.get(VM).text("Name")


@pytest.mark.parametrize("auth", ["kerberos", "negotiate"])
@pytest.mark.parametrize("transport", ["http", "https"])
def test_a_password_gets_a_ticket_and_the_ticket_gets_in(
    kdc: Kdc, certificate: tuple[Path, Path], transport: str, auth: str
) -> None:
    before = len(kdc.log("TGS_REQ", "ISSUE", "HOST/localhost"))
    with member(kdc, certificate) as server:
        assert entered(server, certificate, transport, auth=auth) == VM_GUID
    assert len(kdc.log("TGS_REQ", "ISSUE", "HOST/localhost")) > before


@pytest.mark.parametrize("user", [None, USER])
@pytest.mark.parametrize("auth", ["kerberos", "negotiate"])
def test_a_ticket_that_is_there_needs_no_password(
    kdc: Kdc,
    certificate: tuple[Path, Path],
    auth: str,
    user: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KRB5CCNAME", kdc.ticket(tmp_path / "ticket")["KRB5CCNAME"])
    before = len(kdc.log("AS_REQ"))
    with member(kdc, certificate) as server:
        for transport in ("http", "https"):
            assert entered(server, certificate, transport, auth=auth, user=user, password=None) == VM_GUID
    assert len(kdc.log("AS_REQ")) == before


def test_a_host_that_offers_nothing_but_kerberos(kdc: Kdc, certificate: tuple[Path, Path]) -> None:
    with member(kdc, certificate, Settings(auth_negotiate=False)) as server:
        assert entered(server, certificate, "http") == VM_GUID
        assert entered(server, certificate, "https", auth="negotiate") == VM_GUID
        with pytest.raises(LoginImpossible, match="offers 'kerberos'"):
            entered(server, certificate, auth="ntlm")


def test_a_host_without_a_domain_is_asked_by_ntlm(kdc: Kdc, certificate: tuple[Path, Path]) -> None:
    with member(kdc, certificate, in_domain=False) as server:
        for transport in ("http", "https"):
            assert entered(server, certificate, transport, auth="negotiate") == VM_GUID
        with pytest.raises(LoginRefused, match=f"refuses the user '{USER}'"):
            entered(server, certificate)


def test_a_host_that_cannot_open_the_ticket(
    kdc: Kdc, certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRB5CCNAME", kdc.ticket(tmp_path / "ticket")["KRB5CCNAME"])
    with (
        member(kdc, certificate, in_domain=False) as server,
        pytest.raises(LoginRefused, match=r"refuses the ticket\.$"),
    ):
        entered(server, certificate, user=None, password=None)


@pytest.mark.parametrize("user", ["backup", "HV01\\backup"])
def test_the_password_of_a_user_without_a_realm_is_not_tried_on_the_domain(
    kdc: Kdc, certificate: tuple[Path, Path], user: str
) -> None:
    before = kdc.log()
    with member(kdc, certificate) as server:
        assert entered(server, certificate, auth="negotiate", user=user) == VM_GUID
    assert kdc.log() == before


def test_a_wrong_password_is_tried_once(kdc: Kdc, certificate: tuple[Path, Path]) -> None:
    before = len(kdc.log("PREAUTH_FAILED"))
    # NTLM would let it in: this host has a user of its own with this password.
    users = {"backup": WRONG}
    with (
        Server(ToyHost(), users, host_name="hv01", certificate=certificate, keytab=kdc.keytab) as server,
        pytest.raises(LoginRefused, match="the password is wrong"),
    ):
        entered(server, certificate, auth="negotiate", password=WRONG)
    assert len(kdc.log("PREAUTH_FAILED")) == before + 1


# --- what goes wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "password", "kind", "says"),
    [
        ((), WRONG, LoginRefused, "the password is wrong"),
        (("-requires_preauth",), WRONG, LoginRefused, "the password is wrong"),
        (("-allow_tix",), PASSWORD, LoginRefused, "the account is locked or disabled"),
        (("-pwexpire", "yesterday"), PASSWORD, LoginRefused, "the password's time is over"),
        (("-expire", "yesterday"), PASSWORD, LoginRefused, "the account's time is over"),
    ],
)
def test_an_account_that_is_refused(
    kdc: Kdc,
    certificate: tuple[Path, Path],
    options: tuple[str, ...],
    password: str,
    kind: type[HostError],
    says: str,
) -> None:
    user = f"{'-'.join(options)}-{len(password)}@{REALM}".replace(" ", "")
    kdc.add(user, PASSWORD, *options)
    with member(kdc, certificate) as server:
        refused(kind, says, lambda: entered(server, certificate, user=user, password=password))


def test_a_user_nobody_knows(kdc: Kdc, certificate: tuple[Path, Path]) -> None:
    with member(kdc, certificate) as server:
        refused(
            LoginRefused,
            "the domain knows no such user",
            lambda: entered(server, certificate, user=f"stranger@{REALM}"),
        )


def test_no_kdc_answers(kdc: Kdc, certificate: tuple[Path, Path]) -> None:
    with socket.socket() as silent:  # bound and not listening: refused at once
        silent.bind(("127.0.0.1", 0))
        kdc.configure(port=int(silent.getsockname()[1]))
        with member(kdc, certificate) as server:
            refused(
                LoginImpossible,
                "no KDC of the user's domain answers",
                lambda: entered(server, certificate),
                hint="port 88",
            )


def test_a_realm_without_a_kdc(kdc: Kdc, certificate: tuple[Path, Path]) -> None:
    with member(kdc, certificate) as server:
        refused(
            LoginImpossible,
            "this machine knows no KDC for the user's domain",
            lambda: entered(server, certificate, user="backup@OTHER.TEST"),
            hint="user@REALM, in capitals",
        )


def test_an_address_that_is_no_name(kdc: Kdc, certificate: tuple[Path, Path]) -> None:
    with member(kdc, certificate) as server:
        refused(
            LoginImpossible,
            "the domain knows no host of this name",
            lambda: entered(server, certificate, address="127.0.0.1"),
            hint="full name",
        )


@pytest.mark.parametrize("auth", ["kerberos", "negotiate"])
def test_neither_a_ticket_nor_a_password(kdc: Kdc, certificate: tuple[Path, Path], auth: str) -> None:
    with member(kdc, certificate) as server:
        refused(
            LoginImpossible,
            "there is no ticket that could be used",
            lambda: entered(server, certificate, user=None, password=None, auth=auth),
            hint="kinit",
        )


def test_a_configuration_that_is_none(kdc: Kdc, certificate: tuple[Path, Path]) -> None:
    gc.collect()  # credentials of earlier tests: gssapi reads the configuration even to let go of them
    kdc.configuration.write_text("[libdefaults\nwhat = {")
    with member(kdc, certificate) as server:
        refused(
            LoginImpossible,
            "its configuration cannot be read",
            lambda: entered(server, certificate),
            hint="krb5.conf",
        )


def test_a_user_without_a_realm_is_refused_before_anybody_is_asked(
    kdc: Kdc, certificate: tuple[Path, Path]
) -> None:
    with member(kdc, certificate) as server:
        refused(
            EndpointUnusable,
            "names no realm",
            lambda: entered(server, certificate, user="VMKEEP\\backup"),
            hint="user@REALM",
        )


def test_a_ticket_that_passes_through_somebody_else_is_refused(
    kdc: Kdc, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """Over TLS the ticket is bound to the certificate that the client saw."""
    others = make_certificate(tmp_path, "hv01.example.org")
    with member(kdc, certificate) as server:
        with between(server.https_port, certificate) as port:  # who shows the host's own is the host
            assert entered(server, certificate, "https", port=port) == VM_GUID
        with between(server.https_port, others) as port, pytest.raises(LoginRefused):
            entered(server, others, "https", port=port)


@contextlib.contextmanager
def between(port: int, certificate: tuple[Path, Path]) -> Iterator[int]:
    """Open the TLS of one connection with a certificate, hand all of it on to a port over TLS, and back."""
    inner = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inner.load_cert_chain(*certificate)
    outer = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outer.check_hostname, outer.verify_mode = False, ssl.CERT_NONE
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        plain, _ = listener.accept()
        with (
            inner.wrap_socket(plain, server_side=True) as client,
            outer.wrap_socket(socket.create_connection(("127.0.0.1", port))) as host,
            selectors.DefaultSelector() as ready,
        ):
            ready.register(client, selectors.EVENT_READ, host)
            ready.register(host, selectors.EVENT_READ, client)
            # One thread for both ways: two must not use one TLS connection.
            with contextlib.suppress(OSError):  # either end may go first
                while all(handed_on(key.fileobj, key.data) for key, _ in ready.select(10)):
                    pass

    def handed_on(source: Any, sink: ssl.SSLSocket) -> bool:
        """Hand on what has come; False at the end."""
        source.settimeout(0)
        try:
            data: bytes = source.recv(65536)
            while source.pending():
                data += source.recv(65536)
        except ssl.SSLWantReadError:
            return True  # a message of TLS itself
        sink.settimeout(10)
        sink.sendall(data)
        return bool(data)

    thread = threading.Thread(target=serve)
    thread.start()
    with listener:
        yield int(listener.getsockname()[1])
        thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0x96C73A01, "Client's entry in database has expired"),
        (0x96C73A06, "Client not found in Kerberos database"),
        (0x96C73A07, "Server not found in Kerberos database"),
        (0x96C73A0E, "KDC has no support for encryption type"),
        (0x96C73A12, "Client's credentials have been revoked"),
        (0x96C73A17, "Password has expired"),
        (0x96C73A18, "Preauthentication failed"),
        (0x96C73A1F, "Decrypt integrity check failed"),
        (0x96C73A20, "Ticket expired"),
        (0x96C73A21, "Ticket not yet valid"),
        (0x96C73A25, "Clock skew too great"),
        (0x96C73A87, "Can't open/find Kerberos configuration file"),
        (0x96C73A88, "Improper format of Kerberos configuration file"),
        (0x96C73A8D, "Matching credential not found"),
        (0x96C73A94, "Clock skew too great in KDC reply"),
        (0x96C73A9A, "Cannot find KDC for requested realm"),
        (0x96C73A9C, "Cannot contact any KDC for requested realm"),
        (0x96C73AC3, "No credentials cache found"),
        (0x96C73AE0, "Configuration file does not specify default realm"),
    ],
)
def test_the_numbers_are_those_of_the_library(kdc: Kdc, number: int, said: str) -> None:
    """MIT's library says what each number is; that its meaning fits can be read here."""
    import krb5

    error = krb5.Krb5Error(krb5.init_context(), number - (1 << 32))
    assert str(error).startswith(said)
    assert kerberos.meaning_of(error) is not None


def test_every_number_of_the_library_stands_above() -> None:
    marks = test_the_numbers_are_those_of_the_library.pytestmark  # type: ignore[attr-defined]
    assert {number for number, _ in marks[0].args[1]} == {
        number for number in kerberos._MEANINGS if number >> 16 == 0x96C7
    }


def refused(kind: type[HostError], says: str, action: Callable[[], object], hint: str = "") -> None:
    """Run what must fail with one sentence, which says this and no password."""
    with pytest.raises(kind) as caught:
        action()
    error = caught.value
    assert type(error) is kind
    assert says in error.message
    assert error.message.endswith(".")
    assert hint in error.hint
    assert error.hint
    seen: BaseException | None = error
    while seen is not None:
        assert PASSWORD not in str(seen) and WRONG not in str(seen)
        seen = seen.__cause__
