"""Two WinRM clients that are not ours: pypsrp and pywinrm, over HTTP with sealing and over HTTPS."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from pypsrp.client import Client
from pypsrp.exceptions import AuthenticationError, WinRMTransportError, WSManFaultError
from pypsrp.wsman import NAMESPACES, SelectorSet, WSMan
from winrm.exceptions import InvalidCredentialsError
from winrm.exceptions import WSManFaultError as PywinrmFault
from winrm.protocol import Protocol

from tests.toy_host import (
    ENUMERATE,
    JOB_ID,
    SERVICE,
    VM_GUID,
    WMI,
    ToyHost,
    envelope,
    query,
    selectors,
)
from vmkeep_lab.wire.certificate import make_certificate
from vmkeep_lab.wire.disturbances import Disturbance, Effect
from vmkeep_lab.wire.server import Server
from vmkeep_lab.wire.settings import Settings

PASSWORD = "Correct-horse 1ü"
PLAIN = "plain letters 1"  # Basic says nothing about other ones
USERS = {"Administrator": PASSWORD, "Guest": PLAIN}
SYSTEM = f"{WMI}Msvm_ComputerSystem"
WSEN = NAMESPACES["wsen"]
WSMAN_NS = NAMESPACES["wsman"]


class Lab:
    """A running server and the host behind it."""

    def __init__(self, server: Server, host: ToyHost, certificate: Path) -> None:
        self.server = server
        self.host = host
        self.certificate = certificate

    def wsman(self, *, tls: bool = False, password: str = PASSWORD, **more: Any) -> WSMan:
        """Return a pypsrp client."""
        return WSMan(
            "127.0.0.1",
            port=self.server.https_port if tls else self.server.http_port,
            ssl=tls,
            cert_validation=str(self.certificate) if tls else True,  # type: ignore[arg-type]  # a path, too
            password=password,
            no_proxy=True,
            **{"auth": "negotiate", "username": "Administrator", **more},
        )

    def protocol(
        self, *, tls: bool = False, password: str = PASSWORD, user: str = "Administrator"
    ) -> Protocol:
        """Return a pywinrm client."""
        port = self.server.https_port if tls else self.server.http_port
        return Protocol(
            endpoint=f"http{'s' if tls else ''}://127.0.0.1:{port}/wsman",
            transport="ntlm",
            username=user,
            password=password,
            ca_trust_path=str(self.certificate),
            message_encryption="auto",
        )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("state"), "hv01.example.org")


@pytest.fixture
def lab(certificate: tuple[Path, Path]) -> Iterator[Lab]:
    host = ToyHost(vms=3)
    with Server(host, USERS, host_name="hv01.example.org", certificate=certificate) as server:
        yield Lab(server, host, certificate[0])


def pulled(
    client: WSMan, name: str = "Msvm_ComputerSystem", count: int | None = None
) -> list[ElementTree.Element]:
    """Enumerate a class to its end."""
    uri = f"{WMI}{name}"
    root = client.enumerate(uri, ElementTree.Element(f"{{{WSEN}}}Enumerate"))
    found: list[ElementTree.Element] = []
    for _ in range(100):
        context = root.find(f".//{{{WSEN}}}EnumerationContext")
        assert context is not None
        body = ElementTree.Element(f"{{{WSEN}}}Pull")
        ElementTree.SubElement(body, f"{{{WSEN}}}EnumerationContext").text = context.text
        if count is not None:
            ElementTree.SubElement(body, f"{{{WSEN}}}MaxElements").text = str(count)
        root = client.pull(uri, body)
        items = root.find(f".//{{{WSEN}}}Items")
        assert items is not None
        found.extend(items)
        if root.find(f".//{{{WSEN}}}EndOfSequence") is not None:
            break
    return found


@pytest.mark.parametrize(
    ("tls", "more"),
    [
        (False, {"auth": "negotiate"}),
        (False, {"auth": "ntlm"}),
        (True, {"auth": "ntlm"}),
        (True, {"auth": "negotiate", "encryption": "always"}),
        (False, {"username": "hv01\\administrator"}),
        (False, {"username": "ADMINISTRATOR@hv01.example.org"}),
        (False, {"username": "OTHER\\Administrator"}),
    ],
)
def test_pypsrp_enumerates_whatever_the_way_and_the_form_of_the_name(
    lab: Lab, tls: bool, more: dict[str, Any]
) -> None:
    with lab.wsman(tls=tls, **more) as client:
        names = [each.findtext(f"{{{SYSTEM}}}Name") for each in pulled(client, count=2)]
    assert len(names) == 4
    assert VM_GUID in names


def test_pypsrp_gets_and_invokes(lab: Lab) -> None:
    with lab.wsman() as client:
        keys = SelectorSet()
        keys.add_option("CreationClassName", "Msvm_ComputerSystem")
        keys.add_option("Name", VM_GUID)
        root = client.get(SYSTEM, selector_set=keys)
        assert root.findtext(f".//{{{SYSTEM}}}Caption") == "仮想マシン"
        uri = f"{WMI}{SERVICE}"
        body = ElementTree.Element(f"{{{uri}}}CreateSnapshot_INPUT")
        ElementTree.SubElement(body, f"{{{uri}}}SnapshotType").text = "32768"
        which = SelectorSet()
        which.add_option("CreationClassName", SERVICE)
        root = client.invoke(f"{uri}/CreateSnapshot", uri, body, None, which)
    assert root.findtext(f".//{{{uri}}}ReturnValue") == "4096"
    assert [each.text for each in root.iter() if each.get("Name") == "InstanceID"] == [JOB_ID]
    assert lab.host.calls[0][2] == {"SnapshotType": 32768}


def test_pypsrp_learns_the_largest_envelope(lab: Lab) -> None:
    with lab.wsman() as client:
        before = client.max_payload_size
        client.update_max_payload_size()
        assert client.max_payload_size > before


def test_pypsrp_understands_our_faults(lab: Lab) -> None:
    with lab.wsman() as client:
        with pytest.raises(WSManFaultError) as refused:
            client.enumerate(f"{WMI}Msvm_Nothing", ElementTree.Element(f"{{{WSEN}}}Enumerate"))
        assert refused.value.code == 2150858752
        uri = f"{WMI}{SERVICE}"
        which = SelectorSet()
        which.add_option("CreationClassName", SERVICE)
        with pytest.raises(WSManFaultError) as refused:
            client.invoke(
                f"{uri}/ApplySnapshot", uri, ElementTree.Element(f"{{{uri}}}ApplySnapshot_INPUT"), None, which
            )
        # pypsrp reads MSFT_WmiError by its names, not by its code.
        assert refused.value.code == "w:InternalError"
        assert refused.value.reason == "Generic failure"


def test_pypsrp_runs_a_command(lab: Lab) -> None:
    with Client(
        "127.0.0.1",
        port=lab.server.http_port,
        ssl=False,
        auth="ntlm",
        username="Administrator",
        password=PASSWORD,
        no_proxy=True,
    ) as client:
        out, err, code = client.execute_cmd("dir C:\\", encoding="utf-8")
        assert (out, err, code) == ("dir C:\\\r\n", "エラー", -1073741819)
        out, _, code = client.execute_cmd("long", encoding="utf-8")
    assert out == "仮想\r\n" * 20_000
    assert code == 0


@pytest.mark.parametrize("tls", [False, True])
def test_pywinrm_sends_raw_envelopes(lab: Lab, tls: bool) -> None:
    protocol = lab.protocol(tls=tls)
    text = query("SELECT * FROM Msvm_ComputerSystem WHERE Caption LIKE '仮想%'").decode()
    root = ElementTree.fromstring(protocol.send_message(text))
    items = root.find(f".//{{{WSMAN_NS}}}Items")
    assert items is not None
    assert len(items) == 3
    with pytest.raises(PywinrmFault) as refused:
        protocol.send_message(query("SELECT * FROM Msvm_Nothing").decode())
    assert refused.value.wsman_fault_code == 2150858778


def test_pywinrm_runs_a_command(lab: Lab) -> None:
    protocol = lab.protocol()
    shell = protocol.open_shell()
    command = protocol.run_command(shell, "dir", ["C:\\"])
    out, err, code = protocol.get_command_output(shell, command)
    protocol.cleanup_command(shell, command)
    protocol.close_shell(shell)
    assert (out, err.decode(), code) == (b"dir C:\\\r\n", "エラー", -1073741819)


@pytest.mark.parametrize(("user", "password"), [("Administrator", "wrong"), ("nobody", PASSWORD), ("", "")])
def test_a_wrong_password_is_refused(lab: Lab, user: str, password: str) -> None:
    with (
        pytest.raises((AuthenticationError, WinRMTransportError)),
        lab.wsman(username=user or "x", password=password or "x") as client,
    ):
        pulled(client)
    with pytest.raises(InvalidCredentialsError):
        lab.protocol(user=user or "x", password=password or "x").send_message(
            query("SELECT * FROM A").decode()
        )
    assert lab.host.calls == []


def test_plain_text_over_http_is_refused_unless_allowed(lab: Lab, certificate: tuple[Path, Path]) -> None:
    with lab.wsman(encryption="never") as client, pytest.raises(WinRMTransportError) as refused:
        pulled(client)
    assert refused.value.code == 500
    host = ToyHost()
    with Server(host, USERS, host_name="HV01", settings=Settings(allow_unencrypted=True)) as server:
        other = Lab(server, host, certificate[0])
        with other.wsman(encryption="never") as client:
            assert len(pulled(client)) == 2


def test_basic_over_https_where_it_is_configured(certificate: tuple[Path, Path]) -> None:
    host = ToyHost()
    settings = Settings(auth_basic=True)
    with Server(host, USERS, host_name="HV01", settings=settings, certificate=certificate) as server:
        lab = Lab(server, host, certificate[0])
        with lab.wsman(tls=True, auth="basic", username="HV01\\guest", password=PLAIN) as client:
            assert len(pulled(client)) == 2
        with pytest.raises(AuthenticationError), lab.wsman(tls=True, auth="basic", password="no") as client:
            pulled(client)


def test_after_an_idle_close_the_old_key_is_refused_with_400(lab: Lab) -> None:
    """pypsrp re-sends a body sealed with the key of the closed connection (protocols.md 1.3)."""
    with lab.wsman() as client:
        assert len(pulled(client)) == 4
        lab.server.close_connections()
        with pytest.raises(WinRMTransportError) as refused:
            pulled(client)
        assert refused.value.code == 400
        # What heals it: forget the old key.
        client.transport.encryption = None
        client.transport.session = None
        assert len(pulled(client)) == 4


@pytest.mark.parametrize("effect", [Effect.CLOSE_BEFORE, Effect.CLOSE_AFTER, Effect.CUT])
def test_a_lost_reply_tells_nothing_about_the_deed(lab: Lab, effect: Effect) -> None:
    uri = f"{WMI}{SERVICE}"
    lab.server.disturbances.add(Disturbance(effect, action="CreateSnapshot"))
    which = SelectorSet()
    which.add_option("CreationClassName", SERVICE)
    body = ElementTree.Element(f"{{{uri}}}CreateSnapshot_INPUT")
    with lab.wsman() as client:
        pulled(client)
        with pytest.raises((OSError, WinRMTransportError)):
            client.invoke(f"{uri}/CreateSnapshot", uri, body, None, which)
    assert len(lab.host.calls) == (0 if effect is Effect.CLOSE_BEFORE else 1)


def test_a_flipped_bit_breaks_the_seal(lab: Lab) -> None:
    lab.server.disturbances.add(Disturbance(Effect.FLIP, action="Enumerate"))
    with lab.wsman() as client, pytest.raises(Exception, match=r"(?i)integrity|MIC|sign"):
        pulled(client)


def test_a_bare_status_and_a_delay(lab: Lab) -> None:
    lab.server.disturbances.add(Disturbance(Effect.STATUS, action="Enumerate", code=503))
    lab.server.disturbances.add(Disturbance(Effect.DELAY, action="Pull", seconds=0.2))
    with lab.wsman() as client:
        with pytest.raises(WinRMTransportError) as refused:
            pulled(client)
        assert refused.value.code == 503
        begin = time.monotonic()
        assert len(pulled(client, count=10)) == 4
        assert time.monotonic() - begin >= 0.2


def test_raw_headers_of_a_client_that_retransmits(lab: Lab) -> None:
    operation = f"uuid:{uuid.uuid4()}"
    headers = (
        f'<p:OperationID s:mustUnderstand="true">{operation}</p:OperationID>'
        '<p:SequenceId s:mustUnderstand="true">2</p:SequenceId>'
    )
    data = envelope(ENUMERATE, SYSTEM, "<n:Enumerate/>", headers)
    root = ElementTree.fromstring(lab.protocol().send_message(data.decode()))
    assert operation in [each.text for each in root.iter()]


def test_selectors_of_a_raw_envelope(lab: Lab) -> None:
    uri = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/Win32_OperatingSystem"
    data = envelope("http://schemas.xmlsoap.org/ws/2004/09/transfer/Get", uri, "", selectors(Name="windows"))
    root = ElementTree.fromstring(lab.protocol().send_message(data.decode()))
    assert root.findtext(f".//{{{uri}}}BuildNumber") == "17763"


def test_no_reply_waits_for_an_acknowledgement(lab: Lab) -> None:
    with lab.wsman() as client:
        pulled(client, count=10)
        best = 60.0
        for _ in range(50):
            begin = time.monotonic()
            pulled(client, "Msvm_AffectedJobElement", count=10)
            best = min(best, time.monotonic() - begin)
    print(f"the best Enumerate and Pull of a class took {best * 1000:.1f} ms")
    # A reply in two segments waits for a delayed acknowledgement: 40 ms, twice a pair.
    assert best < 0.04
