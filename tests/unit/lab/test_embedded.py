"""Embedded instances as CIM-XML text, and times in both notations."""

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from vmkeep_lab.cim import V2, WBEM_E_INVALID_CLASS, WBEM_E_INVALID_METHOD_PARAMETERS, Instance, WmiError
from vmkeep_lab.schema import Schema
from vmkeep_lab.wire import times
from vmkeep_lab.wire.embedded import read_instance, write_instance

pytestmark = pytest.mark.quick

SCHEMA = Schema.load("server2019")


def test_the_settings_of_a_recovery_checkpoint_are_read() -> None:
    # hyperv-backup-api.md, Annex A: the canonical request, and what libvirt and go-wsman send.
    source = """<INSTANCE CLASSNAME="Msvm_VirtualSystemSnapshotSettingData">
     <PROPERTY NAME="ConsistencyLevel" TYPE="uint8"><VALUE>1</VALUE></PROPERTY>
     <PROPERTY NAME="guestbackuptype" TYPE="uint8"><VALUE>2</VALUE></PROPERTY>
     <PROPERTY NAME="Caption" TYPE="string"></PROPERTY>
     <PROPERTY NAME="IgnoreNonSnapshottableDisks" TYPE="boolean"><VALUE>true</VALUE></PROPERTY></INSTANCE>"""
    assert read_instance(SCHEMA, V2, source) == Instance(
        "Msvm_VirtualSystemSnapshotSettingData",
        {"ConsistencyLevel": 1, "GuestBackupType": 2, "Caption": None, "IgnoreNonSnapshottableDisks": True},
    )


def test_arrays_and_times_are_read_and_an_odd_time_is_handed_on() -> None:
    source = (
        '<INSTANCE CLASSNAME="Msvm_VirtualSystemSettingData">'
        '<PROPERTY.ARRAY NAME="Notes" TYPE="string"><VALUE.ARRAY>'
        "<VALUE>a &lt; b</VALUE><VALUE/></VALUE.ARRAY></PROPERTY.ARRAY>"
        '<PROPERTY NAME="AutomaticStartupActionDelay" TYPE="datetime">'
        "<VALUE>00000000003000.000000:000</VALUE></PROPERTY>"
        '<PROPERTY NAME="CreationTime" TYPE="datetime"><VALUE>2026-10-08T12:00:00Z</VALUE></PROPERTY>'
        "</INSTANCE>"
    )
    assert read_instance(SCHEMA, V2, source).values == {
        "Notes": ["a < b", ""],
        "AutomaticStartupActionDelay": timedelta(minutes=30),
        "CreationTime": "2026-10-08T12:00:00Z",
    }


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("", WBEM_E_INVALID_METHOD_PARAMETERS),
        ("text", WBEM_E_INVALID_METHOD_PARAMETERS),
        ("<p:Msvm_Error xmlns:p='x'/>", WBEM_E_INVALID_METHOD_PARAMETERS),
        (
            '<!DOCTYPE a []><INSTANCE CLASSNAME="Msvm_Error"/>',
            WBEM_E_INVALID_METHOD_PARAMETERS,
        ),
        ('<INSTANCE CLASSNAME="Msvm_Nothing"/>', WBEM_E_INVALID_CLASS),
        (
            '<INSTANCE CLASSNAME="Msvm_Error"><PROPERTY NAME="Nothing" TYPE="string"/></INSTANCE>',
            WBEM_E_INVALID_METHOD_PARAMETERS,
        ),
        (  # without TYPE
            '<INSTANCE CLASSNAME="Msvm_Error"><PROPERTY NAME="Message"><VALUE/></PROPERTY></INSTANCE>',
            WBEM_E_INVALID_METHOD_PARAMETERS,
        ),
        (
            '<INSTANCE CLASSNAME="Msvm_VirtualSystemSnapshotSettingData"><PROPERTY NAME="ConsistencyLevel" '
            'TYPE="uint8"><VALUE>256</VALUE></PROPERTY></INSTANCE>',
            WBEM_E_INVALID_METHOD_PARAMETERS,
        ),
    ],
)
def test_what_is_no_embedded_instance_is_refused(source: str, code: int) -> None:
    with pytest.raises(WmiError) as refused:
        read_instance(SCHEMA, V2, source)
    assert refused.value.code == code


def test_an_instance_is_written_with_all_properties_of_its_class() -> None:
    written = write_instance(
        SCHEMA,
        Instance(
            "Msvm_VirtualHardDiskSettingData",
            {
                "BlockSize": 33554432,
                "Path": 'C:\\a & "b"',
                "ParentTimestamp": datetime(2026, 1, 2, tzinfo=UTC),
            },
        ),
    )
    root = ElementTree.fromstring(written)
    found = {each.attrib["NAME"]: (each.attrib["TYPE"], each.findtext("VALUE")) for each in root}
    assert root.attrib == {"CLASSNAME": "Msvm_VirtualHardDiskSettingData"}
    assert found["BlockSize"] == ("uint32", "33554432")
    assert found["Path"] == ("string", 'C:\\a & "b"')
    assert found["ParentTimestamp"] == ("datetime", "20260102000000.000000+000")
    assert found["VirtualDiskId"] == ("string", None)
    assert list(found) == list(SCHEMA.find(V2, "Msvm_VirtualHardDiskSettingData").properties)


def test_an_instance_with_a_foreign_property_is_not_written() -> None:
    with pytest.raises(ValueError, match="Nothing"):
        write_instance(SCHEMA, Instance("Msvm_Error", {"Nothing": 1}))


@pytest.mark.parametrize(
    ("value", "iso", "cim"),
    [
        (  # recorded: the fraction without its last zeros, and the time that means never
            datetime(2026, 10, 8, 15, 15, 36, 684240, UTC),
            "2026-10-08T15:15:36.68424Z",
            "20261008151536.684240+000",
        ),
        (datetime(1601, 1, 1, tzinfo=UTC), "1601-01-01T00:00:00Z", "16010101000000.000000+000"),
    ],
)
def test_times(value: datetime, iso: str, cim: str) -> None:
    assert times.iso_time(value) == iso
    assert times.read_iso(iso) == value
    assert times.cim_time(value) == cim
    assert times.read_cim(cim) == value


def test_intervals() -> None:
    span = timedelta(days=1, hours=2, minutes=3, seconds=4, microseconds=500_000)
    assert times.iso_interval(span) == "P1DT2H3M4.5S"
    assert times.read_duration("P1DT2H3M4.5S") == span
    assert times.cim_time(span) == "00000001020304.500000:000"
    assert times.read_cim("00000001020304.500000:000") == span
    assert times.read_duration("PT20.000S") == timedelta(seconds=20)


@pytest.mark.parametrize("text", ["", "P", "PT", "2026", "-PT1S", "2026-13-01T00:00:00Z", "PT1X", "P1S"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        times.read_iso(text)
