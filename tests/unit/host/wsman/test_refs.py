"""References and object paths, beside paths that Microsoft's documentation and hosts show."""

from typing import Final
from xml.etree import ElementTree

import pytest

from vmkeep.host.wsman import ArgumentRefused, Ref, ValueRefused, quoted
from vmkeep.host.wsman.query import class_asked, references, select
from vmkeep.host.wsman.refs import read_reference, selectors_xml, split_uri

pytestmark = pytest.mark.quick

V2: Final = "root/virtualization/v2"


@pytest.mark.parametrize(
    ("path", "namespace", "class_name", "keys"),
    [
        (
            r'\\HV01\root\virtualization\v2:Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="A-B"',
            V2,
            "Msvm_ComputerSystem",
            {"CreationClassName": "Msvm_ComputerSystem", "Name": "A-B"},
        ),
        (
            r'root/virtualization/v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:1\\2"',
            V2,
            "Msvm_VirtualSystemSettingData",
            {"InstanceID": "Microsoft:1\\2"},
        ),
        (
            r'\\.\root\cimv2:Win32_Volume.DeviceID="\\\\?\\Volume{12}\\"',
            "root/cimv2",
            "Win32_Volume",
            {"DeviceID": "\\\\?\\Volume{12}\\"},
        ),
        (r'Msvm_X.Name="say \"hi\", twice"', "root/x", "Msvm_X", {"Name": 'say "hi", twice'}),
        (
            "//hv01.lab.example/root/cimv2:Win32_X.Id=7,On=TRUE",
            "root/cimv2",
            "Win32_X",
            {"Id": "7", "On": "TRUE"},
        ),
        ("root/cimv2:Win32_OperatingSystem=@", "root/cimv2", "Win32_OperatingSystem", {}),
    ],
)
def test_object_paths_are_read(path: str, namespace: str, class_name: str, keys: dict[str, str]) -> None:
    found = Ref.parse(path, "root/x")
    assert (found.namespace, found.class_name, found.keys) == (namespace, class_name, keys)


@pytest.mark.parametrize(
    "path",
    [
        "",
        ":",
        "root/x:",
        'root:C.K="open',
        'root:C.K="a"x',
        "root:C.K",
        'root:C,K="a"',
        'C.K="a"',
        'root:C.K="a",K="b"',
        'root:C.K="a",k="b"',
        "C:\\VMs\\a.vhdx",
        'root:C.K="a".L="b"',
        "root:C.K='a'b\"c",
    ],
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueRefused):
        Ref.parse(path)


def test_a_path_is_written_with_doubled_backslashes() -> None:
    ref = Ref(V2, "Msvm_ResourcePool", {"InstanceID": 'Microsoft:A\\B "C"'})
    assert ref.path == r'root/virtualization/v2:Msvm_ResourcePool.InstanceID="Microsoft:A\\B \"C\""'


def test_references_compare_as_wmi_does() -> None:
    one = Ref("root\\Virtualization\\V2", "msvm_x", {"A": "q", "B": "2"})
    two = Ref(V2, "Msvm_X", {"b": "2", "a": "Q"})
    assert one == two
    assert hash(one) == hash(two)
    assert one != Ref(V2, "Msvm_X", {"a": "q", "b": "3"})
    assert one != "root"


@pytest.mark.parametrize(
    ("namespace", "class_name", "keys"),
    [
        ("root//x", "C", {}),
        ("", "C", {}),
        ("root", "C D", {}),
        ("root", "C", {"a b": "1"}),
        ("root", "", {}),
        ("root", "C", {"a": "1", "A": "2"}),
    ],
)
def test_names_that_are_none_are_refused(namespace: str, class_name: str, keys: dict[str, str]) -> None:
    with pytest.raises(ArgumentRefused):
        Ref(namespace, class_name, keys)


def test_a_key_may_be_a_reference() -> None:
    inner = Ref(V2, "Msvm_ComputerSystem", {"Name": 'a & "b"'})
    outer = Ref(V2, "Msvm_SystemDevice", {"GroupComponent": inner, "N": "1"})
    declared = (
        '<x xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" '
        'xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><a:ReferenceParameters><w:ResourceURI>'
        f"{outer.uri}</w:ResourceURI>{selectors_xml(outer)}</a:ReferenceParameters></x>"
    )
    assert read_reference(ElementTree.fromstring(declared)) == outer
    # Inside a path the inner path is text, escaped once more.
    assert outer.path == (
        r"root/virtualization/v2:Msvm_SystemDevice.GroupComponent="
        r'"root/virtualization/v2:Msvm_ComputerSystem.Name=\"a & \\\"b\\\"\"",N="1"'
    )


def test_addresses_of_classes() -> None:
    wmi = "http://schemas.microsoft.com/wbem/wsman/1/wmi/"
    assert split_uri(wmi + "root/cimv2/Win32_X") == ("root/cimv2", "Win32_X")
    assert split_uri("http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_X") == ("", "CIM_X")
    for other in ("", wmi, wmi + "Win32_X", "http://schemas.microsoft.com/wbem/wsman/1/config"):
        with pytest.raises(ValueRefused):
            split_uri(other)


def test_questions_in_wql() -> None:
    assert quoted("O'Neil \\ co") == r"'O\'Neil \\ co'"
    assert select("Msvm_X") == "SELECT * FROM Msvm_X"
    asked = select("Msvm_X", ("A", "B"), f"Name = {quoted('n')}")
    assert asked == "SELECT A,B FROM Msvm_X WHERE Name = 'n'"
    assert class_asked(asked) == "Msvm_X"
    ref = Ref(V2, "Msvm_ComputerSystem", {"Name": "A\\B"})
    assert references(ref, "Msvm_Y") == (
        r'REFERENCES OF {Msvm_ComputerSystem.Name="A\\B"} WHERE ResultClass = Msvm_Y'
    )
    for wrong in ("A B", "A;", "", "A'"):
        with pytest.raises(ArgumentRefused):
            select("Msvm_X", (wrong,))
    with pytest.raises(ArgumentRefused):
        references(ref, "A} WHERE")
