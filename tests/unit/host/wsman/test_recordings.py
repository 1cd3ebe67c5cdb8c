"""The values of real replies: recordings of a Japanese-locale host (tests/data/recordings/README.md)."""

import re
from datetime import UTC, datetime
from typing import Final
from xml.etree import ElementTree

import pytest

from tests.fakes.wsman_script import Scripted
from tests.shapes import RECORDINGS
from vmkeep.host.wsman import Instance, Ref, ValueRefused
from vmkeep.host.wsman.enumeration import enumerate_items
from vmkeep.host.wsman.instance import read_instance

pytestmark = pytest.mark.quick

V2: Final = "root/virtualization/v2"
ALL: Final = (
    "affectedjobelement_pull_created",
    "computersystem_pull_host",
    "computersystem_pull_vm_off",
)
# A property as it is recorded: its name, whether it is null, what stands inside.
PROPERTY: Final = re.compile(r'<p:(?!Msvm_)(\w+)(?:( xsi:nil="true")/>|(?: xmlns:[^>]*)?>(.*?)</p:\1>)')
DATETIME: Final = re.compile(r"<cim:Datetime>([^<]*)</cim:Datetime>")
NEVER: Final = "1601-01-01T00:00:00Z"
URI: Final = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2"


def recorded(name: str) -> Instance:
    content = (RECORDINGS / f"{name}.xml").read_text("utf-8")
    items = ElementTree.fromstring(content).find(
        ".//{http://schemas.xmlsoap.org/ws/2004/09/enumeration}Items"
    )
    assert items is not None
    assert len(items) == 1
    return read_instance(items[0], V2, "")


def test_every_recording_is_read() -> None:
    assert {path.stem for path in RECORDINGS.glob("*.xml")} == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_every_recorded_property_is_read_as_what_it_is(name: str) -> None:
    """Beside a reading of the text by an expression: null, time, number or text, and no property more."""
    text = (RECORDINGS / f"{name}.xml").read_text("utf-8")
    expected = {found[1]: (found[2], found[3]) for found in PROPERTY.finditer(text)}
    instance = recorded(name)
    assert instance.names == frozenset(expected)
    assert len(expected) == (3 if name.startswith("affected") else 41)
    for each, (null, inside) in expected.items():
        time = DATETIME.fullmatch(inside or "")
        if null:
            assert instance.text_or_none(each) is None
            assert instance.texts(each) == ()
        elif time:
            assert instance.moment_or_none(each) == (
                None if time[1] == NEVER else datetime.fromisoformat(time[1])
            )
        elif "<" in inside:
            (uri,) = re.findall("<w:ResourceURI>(.*)</w:ResourceURI>", inside)
            (key,) = re.findall('<w:Selector Name="InstanceID">(.*)</w:Selector>', inside)
            assert instance.ref(each) == Ref(V2, uri.rpartition("/")[2], {"InstanceID": key})
        else:
            assert instance.text(each) == inside
            assert instance.texts(each) == (inside,)
            if inside.isdigit():
                assert instance.integer(each) == int(inside)


def test_a_vm_that_is_off() -> None:
    vm = recorded("computersystem_pull_vm_off")
    assert (vm.class_name, vm.namespace) == ("Msvm_ComputerSystem", V2)
    assert vm.text("Caption") == "仮想マシン"
    assert vm.text("Name") == "00000000-0000-4000-8000-000000000012"
    assert vm.integer("EnabledState") == 3
    assert vm.integer("OnTimeInMilliseconds") == 0
    assert vm.integers("OperationalStatus") == (2,)
    assert vm.texts("StatusDescriptions") == ("正常稼働中",)
    assert vm.integer_or_none("ProcessID") is None
    assert vm.moment("InstallDate") == datetime(2026, 10, 8, 15, 15, 36, 684240, UTC)
    assert vm.moment("TimeOfLastConfigurationChange") == datetime(2026, 10, 8, 15, 15, 36, 842286, UTC)
    assert vm.moment_or_none("TimeOfLastStateChange") is None  # 1601: never
    assert vm.moment_or_none("LastSuccessfulBackupTime") is None  # xsi:nil


def test_the_host_itself_is_no_vm() -> None:
    host = recorded("computersystem_pull_host")
    assert host.text("Name") == "scrubbed-1"  # a name where VMs have a GUID
    assert host.moment_or_none("InstallDate") is None


def test_references_come_without_a_wrapper() -> None:
    row = recorded("affectedjobelement_pull_created")
    assert row.integers("ElementEffects") == (5,)
    assert row.ref("AffectedElement") == Ref(
        V2,
        "Msvm_VirtualSystemSettingData",
        {"InstanceID": "Microsoft:00000000-0000-4000-8000-000000000083"},
    )
    assert row.ref("AffectingElement").path == (
        'root/virtualization/v2:Msvm_ConcreteJob.InstanceID="00000000-0000-4000-8000-000000000066"'
    )


def test_null_and_missing_are_told_apart() -> None:
    vm = recorded("computersystem_pull_vm_off")
    with pytest.raises(ValueRefused, match=r"^Msvm_ComputerSystem\.ProcessID is null\.$"):
        vm.integer("ProcessID")
    with pytest.raises(ValueRefused, match=r"^Msvm_ComputerSystem\.Nonsense was not sent\.$"):
        vm.text_or_none("Nonsense")
    assert "ProcessID" in vm and "Nonsense" not in vm


@pytest.mark.parametrize("name", ["Caption", "Name", "InstallDate"])
def test_a_wrong_type_is_refused_by_class_and_property(name: str) -> None:
    with pytest.raises(ValueRefused, match=rf"^Msvm_ComputerSystem\.{name} is refused: .* is not a whole"):
        recorded("computersystem_pull_vm_off").integer(name)


def test_the_whole_recorded_pages_are_understood_as_answers() -> None:
    """The recordings are replies to a Pull; those with a context go on, the other ends."""
    going_on = (RECORDINGS / "computersystem_pull_vm_off.xml").read_text("utf-8")
    ended = (RECORDINGS / "affectedjobelement_pull_created.xml").read_text("utf-8")
    first = (
        "<n:EnumerateResponse><n:EnumerationContext>uuid:1</n:EnumerationContext><w:Items/>"
        "</n:EnumerateResponse>"
    )
    host = (RECORDINGS / "computersystem_pull_host.xml").read_text("utf-8")
    scripted = Scripted([first, host, going_on, ended])
    items = list(enumerate_items(scripted.exchange(), f"{URI}/*", ""))
    assert [read_instance(item, V2, "").class_name for item in items] == [
        "Msvm_ComputerSystem",
        "Msvm_ComputerSystem",
        "Msvm_AffectedJobElement",
    ]
    contexts = [
        question.root.findtext(".//{http://schemas.xmlsoap.org/ws/2004/09/enumeration}EnumerationContext")
        for question in scripted.asked
    ]
    assert contexts == [
        None,
        "uuid:1",
        "uuid:00000000-0000-4000-8000-000000000006",
        "uuid:00000000-0000-4000-8000-000000000011",
    ]
