"""Files by ticket: Samba with the keys of its service, and no password of its own that would do."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from tests.clocks import FakeClock
from tests.fakes.kdc import PASSWORD, REALM, USER, Kdc
from tests.fakes.samba import Samba
from vmkeep.host.files.credentials import Credentials
from vmkeep.host.files.errors import LoginRefused
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.files.paths import PathMap
from vmkeep.secrets import Secret

WRONG: Final = "canary-wrong-word"


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kdc]:
    with Kdc(tmp_path_factory.mktemp("realm") / "kdc") as kdc:
        yield kdc


@pytest.fixture(scope="module")
def server(realm: Kdc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Samba]:
    """A file server of the realm."""
    folder = tmp_path_factory.mktemp("server")
    patch = pytest.MonkeyPatch()
    for name, value in realm.environment.items():
        patch.setenv(name, value)
    settings = {
        "realm": REALM,
        "kerberos_method": "dedicated keytab",
        "dedicated_keytab_file": f"FILE:{realm.keytab}",
    }
    with Samba(folder / "samba", **settings) as samba:
        realm.add(name_of(samba), PASSWORD)
        (samba.content / "disk.vhdx").write_bytes(b"of the realm")
        yield samba
    patch.undo()


@pytest.fixture
def kdc(realm: Kdc, server: Samba, monkeypatch: pytest.MonkeyPatch) -> Kdc:
    for name, value in realm.environment.items():
        monkeypatch.setenv(name, value)
    return realm


def name_of(server: Samba) -> str:
    """A user of the realm who has the name of one of this machine's: that is how Samba finds its rights."""
    return f"{server.user}@{REALM}"


def read(server: Samba, credentials: Credentials, address: str = "localhost") -> bytes:
    files = HostFiles(address, server.port, credentials, PathMap(), clock=FakeClock())
    with files, closing(files.open("C:\\disk.vhdx")) as file:
        buffer = bytearray(64)
        return bytes(buffer[: file.read_into(0, memoryview(buffer))])


@pytest.mark.parametrize("auth", ["kerberos", "negotiate"])
def test_a_password_gets_a_ticket_and_the_ticket_reads(kdc: Kdc, server: Samba, auth: str) -> None:
    before = len(kdc.log("TGS_REQ", "ISSUE", "cifs/localhost"))
    account = Credentials(name_of(server), Secret(PASSWORD), auth)  # type: ignore[arg-type]
    assert read(server, account) == b"of the realm"
    assert len(kdc.log("TGS_REQ", "ISSUE", "cifs/localhost")) > before


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("auth", ["kerberos", "negotiate"])
def test_a_ticket_that_is_there_reads_without_a_password(
    kdc: Kdc, server: Samba, auth: str, is_named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRB5CCNAME", kdc.ticket(tmp_path / "ticket", name_of(server))["KRB5CCNAME"])
    user = name_of(server) if is_named else None
    assert read(server, Credentials(user, None, auth)) == b"of the realm"  # type: ignore[arg-type]


@pytest.mark.parametrize("auth", ["kerberos", "negotiate"])
def test_a_wrong_password_is_tried_once(kdc: Kdc, server: Samba, auth: str) -> None:
    before = len(kdc.log("PREAUTH_FAILED"))
    with pytest.raises(
        LoginRefused, match=f"'{name_of(server)}' cannot sign in .*: the password is wrong"
    ) as caught:
        read(server, Credentials(name_of(server), Secret(WRONG), auth))  # type: ignore[arg-type]
    assert WRONG not in str(caught.value)
    assert len(kdc.log("PREAUTH_FAILED")) == before + 1


@pytest.mark.parametrize(
    ("credentials", "address", "says"),
    [
        (Credentials(f"stranger@{REALM}", Secret(PASSWORD), "kerberos"), "localhost", "knows no such user"),
        (Credentials("backup@OTHER.TEST", Secret(PASSWORD), "kerberos"), "localhost", "knows no KDC"),
        (Credentials(USER, Secret(PASSWORD), "kerberos"), "127.0.0.1", "knows no host of this name"),
        (Credentials(None, None, "kerberos"), "localhost", "the ticket cannot sign in .* there is no ticket"),
        (
            Credentials(None, None, "negotiate"),
            "localhost",
            "the ticket cannot sign in .* there is no ticket",
        ),
    ],
)
def test_what_goes_wrong_is_said(
    kdc: Kdc, server: Samba, credentials: Credentials, address: str, says: str
) -> None:
    with pytest.raises(LoginRefused, match=says):
        read(server, credentials, address)
