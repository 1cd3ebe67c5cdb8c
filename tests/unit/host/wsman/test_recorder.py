"""A trace: nothing in it tells whose host it is, the same thing has the same name, and it can be replayed."""

import contextlib
import errno
import io
import json
from pathlib import Path
from typing import Final

import pytest

from tests.clocks import FakeClock
from tests.fakes.wsman_host import NS, Reply, fault
from tests.fakes.wsman_script import Scripted
from vmkeep.host.wsman import Client, Endpoint, HostFault, Method, Recorder, Ref, TraceFile
from vmkeep.host.wsman.scrubbing import Scrubber
from vmkeep.secrets import Secret

pytestmark = pytest.mark.quick

V2: Final = "root/virtualization/v2"
URI: Final = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2"
GUID: Final = "0F1D2C3B-4A59-4687-9876-543210ABCDEF"
SID: Final = "S-1-5-21-1004336348-1177238915-682003330-512"

PRIVATE: Final = (
    "Payroll",
    "payroll",
    "hv07",
    "contoso",
    "jdoe",
    "1004336348",
    "10.20.30.40",
    "2001:db8:77",
    "00155DABCDEF",
    "00-15-5d-ab-cd-ef",
    "Ledgers",
)

VM: Final = (
    f'<q:Msvm_ComputerSystem xmlns:q="{URI}/Msvm_ComputerSystem"><q:Name>{GUID}</q:Name>'
    "<q:ElementName>Payroll Server</q:ElementName><q:EnabledState>2</q:EnabledState>"
    "<q:InstallDate><cim:Datetime>2026-10-08T15:15:36.68424Z</cim:Datetime></q:InstallDate>"
    "<q:Notes>of payroll, call jdoe</q:Notes></q:Msvm_ComputerSystem>"
)
DISK: Final = (
    f'<q:Msvm_X xmlns:q="{URI}/Msvm_X"><q:HostResource>D:\\Ledgers\\Virtual Hard Disks\\Payroll Server.vhdx'
    f"</q:HostResource><q:InstanceID>Microsoft:{GUID}\\x</q:InstanceID>"
    f"<q:Path>\\\\hv07.contoso.example\\Ledgers\\Snapshots\\{GUID}.avhdx</q:Path>"
    f"<q:Sid>{SID}</q:Sid><q:Ip>10.20.30.40</q:Ip><q:Ip>2001:db8:77::1</q:Ip><q:Version>10.0.17763.1</q:Version>"
    "<q:Address>00155DABCDEF</q:Address><q:Mac>00-15-5d-ab-cd-ef</q:Mac>"
    "<q:Text>Payroll Server on HV07 (0x80070020) at 12:30:03</q:Text>"
    '<q:Inner>&lt;INSTANCE CLASSNAME="Msvm_Y"&gt;&lt;PROPERTY NAME="ElementName" TYPE="string"&gt;'
    "&lt;VALUE&gt;"
    'Payroll Server&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;PROPERTY NAME="Size" TYPE="uint64"&gt;&lt;VALUE&gt;7'
    "&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;/INSTANCE&gt;</q:Inner></q:Msvm_X>"
)


def recorded(replies: list[str | Reply]) -> list[dict[str, object]]:
    script, stream = Scripted(replies), io.StringIO()
    endpoint = Endpoint(
        address="hv07.contoso.example",
        user="CONTOSO\\jdoe",
        password=Secret("canary"),
        operation_timeout_s=60,
    )
    asking = Client(endpoint, script.clock, Recorder(stream, script.clock), transport=script)
    for reply in replies:
        script.clock.advance(1.5)
        ref = Ref(V2, "Msvm_ComputerSystem" if reply == VM else "Msvm_X", {"Name": "Payroll Server"})
        with contextlib.nullcontext() if isinstance(reply, str) else pytest.raises(HostFault):
            asking.get(ref)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0] == {"vmkeep_trace": 1}
    return lines[1:]


def test_nothing_private_is_left() -> None:
    found = recorded([VM, DISK, fault(1359, text="jdoe at 10.20.30.40 cannot open Payroll Server")])
    text = json.dumps(found, ensure_ascii=False)
    assert [word for word in PRIVATE if word.lower() in text.lower()] == []
    assert "HV01.lab.example" not in text  # the fault's Machine


def test_what_a_replay_needs_is_kept() -> None:
    vm, disk, third = (str(line["reply"]) for line in recorded([VM, DISK, fault(1359)]))
    for kept in (GUID, "2026-10-08T15:15:36.68424Z", "<q:EnabledState>2<", "q:Msvm_ComputerSystem"):
        assert kept in vm
    for kept in (
        f"Microsoft:{GUID}\\x",
        f"{GUID}.avhdx",
        "Virtual Hard Disks",
        ".vhdx",
        "10.0.17763.1",
        "(0x80070020)",
        "12:30:03",
        'NAME="Size"',
    ):
        assert kept in disk.replace("&quot;", '"')
    assert 'Code="1359"' in third


def test_the_same_thing_has_the_same_name() -> None:
    vm, disk = (str(line["reply"]) for line in recorded([VM, DISK]))
    name = vm.partition("<q:ElementName>")[2].partition("<")[0]
    assert name.startswith("name-")
    assert f"Virtual Hard Disks\\{name}.vhdx" in disk
    assert f"<q:Text>{name} on host-" in disk
    assert f"&lt;VALUE&gt;{name}&lt;" in disk
    assert disk.count("ip-1") == 1 and disk.count("ip-2") == 1


def test_the_form_of_a_line() -> None:
    (line,) = recorded([VM])
    assert set(line) == {"n", "at_ms", "action", "resource", "request", "status", "reply"}
    assert (line["n"], line["at_ms"], line["status"]) == (1, 1500, 200)
    assert line["action"] == "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get"


def test_a_trace_can_be_replayed() -> None:
    lines = recorded([VM])
    replayed = Scripted([str(lines[0]["reply"])])
    asking = Client(Endpoint(address="anywhere"), FakeClock(), transport=replayed)
    vm = asking.get(Ref(V2, "Msvm_ComputerSystem", {"Name": GUID}))
    assert vm.text("Name") == GUID
    assert vm.text("ElementName").startswith("name-")
    assert vm.moment_or_none("InstallDate") is not None


def test_queries_and_arguments_are_scrubbed() -> None:
    scrubber = Scrubber()
    wql = "SELECT * FROM Msvm_X WHERE ElementName = 'Payroll' AND Name = '" + GUID + "'"
    out = scrubber.xml(f'<w:Filter xmlns:w="{NS["w"]}" Dialect="x">{wql}</w:Filter>')
    assert "Payroll" not in out
    assert GUID in out
    assert "FROM Msvm_X WHERE ElementName = 'name-1'" in out


DISK_ID: Final = f"Microsoft:{GUID}\\\\83F8638B-8DCA-4152-9EDA-2CA8B33039B4\\\\0\\\\1\\\\D"


@pytest.mark.parametrize(
    "wql",
    [
        "SELECT Name,Label FROM Win32_Volume WHERE DriveType = 3",
        "SELECT * FROM Msvm_X WHERE ResourceSubType <> 'Microsoft:Hyper-V:Virtual CD/DVD Disk'",
        f"SELECT * FROM Msvm_X WHERE InstanceID LIKE 'Microsoft:{GUID}%'",
        f"SELECT * FROM Msvm_X WHERE InstanceID = '{DISK_ID}'",
    ],
)
def test_what_the_client_itself_says_in_a_query_stays(wql: str) -> None:
    """Or nobody could ask a replay the same question; a VM may be called like a word of the language."""
    scrubber = Scrubber()
    for word in ("Label", "Disk", "Win32_Volume", "Hyper"):
        scrubber.hide("name", word)
    escaped = wql.replace("<", "&lt;").replace(">", "&gt;")
    assert (
        scrubber.xml(f"<w:Filter xmlns:w='u'>{escaped}</w:Filter>").partition(">")[2]
        == f"{escaped}</w:Filter>"
    )


@pytest.mark.parametrize("kept", ["Microsoft:Hyper-V:Ledger's", "Microsoft:Ledgers%", "Ledgers%"])
def test_other_literals_go(kept: str) -> None:
    literal = kept.replace("'", "\\'")
    out = Scrubber().xml(f"<w:Filter xmlns:w='u'>SELECT * FROM Msvm_X WHERE A LIKE '{literal}'</w:Filter>")
    assert "Ledger" not in out
    assert "A LIKE 'name-1'" in out


@pytest.mark.parametrize(
    "kept",
    [
        "Microsoft:Hyper-V:Virtual Hard Disk",
        "Microsoft:Hyper-V:Snapshot:Recovery",
        f"Microsoft:{GUID}",
        f"Microsoft:{GUID}\\{GUID}\\0\\1\\L",
        "Msvm_ImageManagementService",
    ],
)
def test_windows_own_words_stay_whatever_vms_are_called(kept: str) -> None:
    scrubber = Scrubber()
    for word in (
        "Disk",
        "Recovery",
        GUID[:8],
        GUID.rpartition("-")[2],
        "Msvm_ImageManagementService",
    ):
        scrubber.hide("name", word)
    assert scrubber.value("Any", kept) == kept
    assert scrubber.text(f"of {GUID} and disk") == f"of {GUID} and name-1"


def test_object_paths_can_still_be_followed() -> None:
    path = f'\\\\hv07\\root\\virtualization\\v2:Msvm_ResourceAllocationSettingData.InstanceID="{DISK_ID}"'
    scrubber = Scrubber()
    scrubber.hide("host", "hv07")
    for word in ("root", "v2", "InstanceID", "D"):
        scrubber.hide("name", word)
    out = scrubber.value("Parent", path)
    assert out == path.replace("hv07", "host-1")
    assert Ref.parse(out).keys["InstanceID"] == DISK_ID.replace("\\\\", "\\")


def test_names_in_the_keys_of_an_object_path_go() -> None:
    path = '\\\\hv07\\root\\cimv2:Win32_Account.Domain="CONTOSO",Name="jane"'
    assert (
        Scrubber().value("Owner", path)
        == '\\\\name-1\\root\\cimv2:Win32_Account.Domain="name-2",Name="name-3"'
    )


def test_the_same_file_has_the_same_name_in_question_and_answer() -> None:
    """A host tells a path in a list, and is asked for it in a method and in a query."""
    scrubber = Scrubber()
    path = "D:\\Ledgers 2026\\Payroll\\a b.v1.avhdx"
    listed = scrubber.value("HostResource", path)
    scrubber.hide("name", "Payroll")
    scrubber.hide("name", "2026")
    asked = scrubber.value("Filter", "A = '" + path.replace("\\", "\\\\") + "'")
    assert scrubber.value("Path", path) == listed
    assert asked == "A = '" + listed.replace("\\", "\\\\") + "'"


@pytest.mark.parametrize(
    ("name", "data", "kept"),
    [
        ("OSName", "Windows Server 2022 Datacenter", True),
        ("OSPlatformId", "2", True),
        ("ProcessorArchitecture", "9", True),
        ("FullyQualifiedDomainName", "pay01.contoso.example", False),
        ("NetworkAddressIPv4", "192.0.2.17;192.0.2.18", False),
        ("NetworkAddressIPv6", "fe80::1234:5678:9abc:def0", False),
        ("Owner's own", "call Jane, room 5", False),
    ],
)
def test_of_a_guest_only_its_system_stays(name: str, data: str, kept: bool) -> None:
    item = (
        '<INSTANCE CLASSNAME="Msvm_KvpExchangeDataItem">'
        f'<PROPERTY NAME="Data" TYPE="string"><VALUE>{data}</VALUE></PROPERTY>'
        f'<PROPERTY NAME="Name" TYPE="string"><VALUE>{name}</VALUE></PROPERTY>'
        '<PROPERTY NAME="Source" TYPE="uint16"><VALUE>2</VALUE></PROPERTY></INSTANCE>'
    )
    out = Scrubber().value("GuestIntrinsicExchangeItems", item)
    assert (f"<VALUE>{data}</VALUE>" in out) is kept
    assert (f"<VALUE>{name}</VALUE>" in out) is kept
    for private in ("pay01", "contoso", "192.0.2", "fe80", "Jane", "room 5"):
        assert private not in out


def test_printed_output_is_scrubbed_inside_its_base64() -> None:
    import base64

    scrubber = Scrubber()
    scrubber.hide("host", "hv07")
    sent = base64.b64encode(b"Ordner auf hv07: {66841cd4}").decode()
    out = scrubber.xml(f'<rsp:Stream xmlns:rsp="{NS["rsp"]}" Name="stdout">{sent}</rsp:Stream>')
    inside = out.partition(">")[2].partition("<")[0]
    assert base64.b64decode(inside).decode() == "Ordner auf host-1: {66841cd4}"


def test_content_that_is_no_xml_is_told_by_its_size_only() -> None:
    stream = io.StringIO()
    Recorder(stream, FakeClock()).record("a", "b", b"<x/>", 200, b"<html>payroll")
    assert json.loads(stream.getvalue().splitlines()[1])["reply"] == "(13 bytes that are not XML)"


def test_a_methods_arguments_are_scrubbed() -> None:
    done = f'<q:Do_OUTPUT xmlns:q="{URI}/Msvm_X"><q:ReturnValue>0</q:ReturnValue></q:Do_OUTPUT>'
    script, stream = Scripted([done]), io.StringIO()
    asking = Client(Endpoint(address="hv07"), script.clock, Recorder(stream, script.clock), transport=script)
    asking.invoke(Ref(V2, "Msvm_X", {}), Method("Do", (("Path", "string"),)), {"Path": "E:\\Ledgers\\a.vhdx"})
    assert "Ledgers" not in stream.getvalue()
    assert ".vhdx" in stream.getvalue()


@pytest.mark.parametrize("name", ["web_01", "db_prod", "Server 2019", "仮想マシン", "R&D <1>", "a.b"])
def test_names_of_every_kind_go(name: str) -> None:
    escaped = name.replace("&", "&amp;").replace("<", "&lt;")
    out = Scrubber().xml(f"<x><ElementName>{escaped}</ElementName><Text>on {escaped}!</Text></x>")
    assert out == "<x><ElementName>name-1</ElementName><Text>on name-1!</Text></x>"


def test_a_vm_named_like_the_wire_breaks_no_trace() -> None:
    scrubber = Scrubber()
    for word in ("virtualization", "100", "true"):
        scrubber.hide("name", word)
    xml = (
        "<x><ResourceURI>root/virtualization/v2</ResourceURI><Size>100</Size><On>true</On><T>is true</T></x>"
    )
    assert scrubber.xml(xml) == xml.replace("is true", "is name-3")


def test_hostile_texts_take_no_time() -> None:
    scrubber = Scrubber()
    for text in (":" * 200_000, "a:" * 100_000, "\\\\" * 100_000, "1." * 100_000, "f" * 200_000):
        assert len(scrubber.text(text)) > 0


# --- a disk that is full ------------------------------------------------------------------------


class FullDisk(io.StringIO):
    """Takes so many lines, and then none that is longer than a word."""

    def __init__(self, lines: int, *, room_for_a_word: bool) -> None:
        super().__init__()
        self.left, self.room_for_a_word = lines, room_for_a_word

    def write(self, line: str) -> int:
        self.left -= 1
        if self.left < 0 and not (self.room_for_a_word and len(line) < 100):
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(line)


@pytest.mark.parametrize("room_for_a_word", [True, False])
def test_a_trace_that_cannot_be_written_any_more_ends_nothing_but_itself(room_for_a_word: bool) -> None:
    stream, told = FullDisk(2, room_for_a_word=room_for_a_word), list[str]()
    script = Scripted([VM] * 4)
    recorder = Recorder(stream, script.clock, told.append)
    asking = Client(Endpoint(address="hv07"), script.clock, recorder, transport=script)
    ref = Ref(V2, "Msvm_ComputerSystem", {"Name": "web"})
    assert [asking.get(ref).integer("EnabledState") for _ in range(4)] == [2] * 4
    (sentence,) = told
    assert "incomplete" in sentence and "no space left" in sentence
    first, only, *last = map(json.loads, stream.getvalue().splitlines())
    assert first == {"vmkeep_trace": 1}
    assert only["n"] == 1
    assert last == [{"incomplete": "no space left on device"}] * room_for_a_word


def test_a_torn_line_is_taken_out_of_the_file(tmp_path: Path) -> None:
    import resource

    with TraceFile(tmp_path / "trace") as lines:
        lines.write("whole\n")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
        try:
            with pytest.raises(OSError, match="large"):
                lines.write("torn " * 10)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        lines.write("after\n")
    assert (tmp_path / "trace").read_text() == "whole\nafter\n"
