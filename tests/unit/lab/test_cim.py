"""Object paths, read and written."""

import pytest

from vmkeep_lab.cim import CIMV2, V2, WBEM_E_INVALID_OBJECT_PATH, Ref, WmiError

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("path", "ref"),
    [
        (
            r'\\HV01.example.org\root\virtualization\v2:Msvm_ComputerSystem.CreationClassName="M",Name="A-1"',
            Ref.to("Msvm_ComputerSystem", CreationClassName="M", Name="A-1"),
        ),
        (
            r'root/virtualization/v2:Msvm_ResourceAllocationSettingData.InstanceID="Microsoft:A\\B\\0"',
            Ref.to("Msvm_ResourceAllocationSettingData", InstanceID=r"Microsoft:A\B\0"),
        ),
        (r'Win32_Service.Name="a \"quoted\" one"', Ref.to("Win32_Service", Name='a "quoted" one')),
        (r"root\cimv2:Win32_Process.Handle=29", Ref.to("Win32_Process", CIMV2, Handle="29")),
        ("root/cimv2:Win32_Service.Name='a \"b\"'", Ref.to("Win32_Service", CIMV2, Name='a "b"')),
        ("Win32_Service", Ref.to("Win32_Service")),
    ],
)
def test_paths_are_read_in_all_their_forms(path: str, ref: Ref) -> None:
    assert Ref.from_path(path, V2) == ref


@pytest.mark.parametrize("path", ["", "no path", "A.B", 'A.B="c', 'A.B="c"d', 'A.B="c",', ":A", "a:b:C"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(WmiError) as refused:
        Ref.from_path(path)
    assert refused.value.code == WBEM_E_INVALID_OBJECT_PATH


def test_a_path_doubles_backslashes_and_escapes_quotes() -> None:
    ref = Ref.to("Msvm_LogicalDisk", DeviceID='C:\\a"b')
    assert ref.path() == 'root/virtualization/v2:Msvm_LogicalDisk.DeviceID="C:\\\\a\\"b"'
    assert Ref.from_path(ref.path()) == ref


def test_references_are_the_same_without_case() -> None:
    one = Ref("msvm_computersystem", (("name", "ab"), ("CREATIONCLASSNAME", "m")), "ROOT/Virtualization/v2")
    assert one.folded() == Ref.to("Msvm_ComputerSystem", Name="AB", CreationClassName="M").folded()
