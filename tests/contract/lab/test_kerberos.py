"""pypsrp, which is not ours, logs in to the lab with a ticket: sealed over HTTP, bound over HTTPS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from pypsrp.exceptions import AuthenticationError
from pypsrp.wsman import SelectorSet, WSMan

from tests.fakes.kdc import PASSWORD, USER, Kdc
from tests.toy_host import VM_GUID, WMI, ToyHost
from vmkeep_lab.wire.certificate import make_certificate
from vmkeep_lab.wire.server import Server
from vmkeep_lab.wire.settings import Settings

GET: Final = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get"


@pytest.fixture(scope="module")
def kdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kdc]:
    patch = pytest.MonkeyPatch()
    with Kdc(tmp_path_factory.mktemp("realm") / "kdc") as kdc:
        for name, value in kdc.environment.items():
            patch.setenv(name, value)
        yield kdc
    patch.undo()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("state"), "hv01.example.org")


def name_of_vm(server: Server, certificate: tuple[Path, Path], *, tls: bool, **more: Any) -> str | None:
    client = WSMan(
        "localhost",
        port=server.https_port if tls else server.http_port,
        ssl=tls,
        cert_validation=str(certificate[0]) if tls else True,  # type: ignore[arg-type]  # a path, too
        username=USER,
        no_proxy=True,
        negotiate_service="WSMAN",
        **{"auth": "kerberos", "password": PASSWORD, "encryption": "auto", **more},
    )
    keys = SelectorSet()
    keys.add_option("CreationClassName", "Msvm_ComputerSystem")
    keys.add_option("Name", VM_GUID)
    with client:
        reply = client.invoke(GET, f"{WMI}Msvm_ComputerSystem", None, selector_set=keys)
    return reply.findtext(f".//{{{WMI}Msvm_ComputerSystem}}Name")


@pytest.mark.parametrize("offer", ["negotiate", "kerberos"])
@pytest.mark.parametrize("more", [{}, {"auth": "negotiate"}, {"encryption": "always"}], ids=str)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_foreign_client_gets_in(
    kdc: Kdc, certificate: tuple[Path, Path], tls: bool, more: dict[str, str], offer: str
) -> None:
    before = len(kdc.log("TGS_REQ", "ISSUE", "WSMAN/localhost"))
    settings = Settings(auth_negotiate=offer == "negotiate")
    with Server(
        ToyHost(vms=3),
        {},
        host_name="hv01.example.org",
        settings=settings,
        certificate=certificate,
        keytab=kdc.keytab,
    ) as server:
        assert name_of_vm(server, certificate, tls=tls, **more) == VM_GUID
    assert len(kdc.log("TGS_REQ", "ISSUE", "WSMAN/localhost")) > before


def test_a_ticket_for_another_host_is_refused(
    kdc: Kdc, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """This host has other keys than those that the KDC knows."""
    with Kdc(tmp_path / "kdc") as other:
        keytab = other.keytab
    with (
        Server(ToyHost(), {}, host_name="hv01", keytab=keytab) as server,
        pytest.raises(AuthenticationError),
    ):
        name_of_vm(server, certificate, tls=False)
