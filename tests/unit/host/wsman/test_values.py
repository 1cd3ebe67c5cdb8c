"""Values as hosts spell them (wsman-wire.md section 4), and what is refused."""

from datetime import UTC, datetime, timedelta
from typing import Final
from xml.etree import ElementTree

import pytest

from vmkeep.host.wsman import HostNonsense, Instance, Ref, ValueRefused
from vmkeep.host.wsman.instance import read_instance
from vmkeep.host.wsman.properties import EmbeddedInstance
from vmkeep.host.wsman.times import (
    cim_interval,
    cim_moment,
    iso_interval,
    iso_moment,
    read_interval,
    read_moment,
)

pytestmark = pytest.mark.quick

URI: Final = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/Win32_X"


def instance(inside: str) -> Instance:
    xml = (
        f'<p:Win32_X xmlns:p="{URI}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xmlns:cim="http://schemas.dmtf.org/wbem/wscim/1/common" '
        'xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" '
        f'xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xsi:type="p:Win32_X_Type">'
        f"{inside}</p:Win32_X>"
    )
    return read_instance(ElementTree.fromstring(xml), "root/other", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("true", True), ("false", False), ("TRUE", True), ("False", False), ("1", True), ("0", False)],
)
def test_booleans_of_windows_and_of_others(text: str, expected: bool) -> None:
    assert instance(f"<p:A>{text}</p:A>").boolean("A") is expected


@pytest.mark.parametrize("text", ["", "yes", "2", "-1", "truefalse"])
def test_other_booleans_are_refused(text: str) -> None:
    with pytest.raises(ValueRefused, match=r"Win32_X\.A is refused"):
        instance(f"<p:A>{text}</p:A>").boolean("A")


def test_numbers_keep_every_digit() -> None:
    assert instance("<p:A>18446744073709551615</p:A>").integer("A") == 2**64 - 1
    assert instance("<p:A>-9223372036854775808</p:A>").integer("A") == -(2**63)


@pytest.mark.parametrize("text", ["", "1.0", "1e3", "0x10", " 1", "\u0661", "1_0", "9" * 21, "--1", "+"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ValueRefused):
        instance(f"<p:A>{text}</p:A>").integer("A")


def test_text_is_kept_to_the_last_blank() -> None:
    assert instance("<p:A> a\n</p:A>").text("A") == " a\n"
    assert instance("<p:A></p:A>").text("A") == ""
    assert instance('<p:A xsi:nil="true"/>').text_or_none("A") is None
    assert instance('<p:A xsi:nil="false">x</p:A>').text("A") == "x"


def test_arrays() -> None:
    found = instance('<p:A>1</p:A><p:A>2</p:A><p:B>3</p:B><p:N xsi:nil="true"/>')
    assert found.integers("A") == (1, 2)
    assert found.integers("B") == (3,)
    assert found.integers("N") == ()
    assert found.integers("Absent") == ()
    with pytest.raises(ValueRefused, match="an array of 2 is not a whole number"):
        found.integer("A")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2010-12-31T12:30:03.123456+06:00", datetime(2010, 12, 31, 6, 30, 3, 123456, UTC)),
        ("2010-12-31T12:30:03Z", datetime(2010, 12, 31, 12, 30, 3, 0, UTC)),
        ("2026-10-08T15:15:36.68424Z", datetime(2026, 10, 8, 15, 15, 36, 684240, UTC)),
        ("2026-10-08T15:15:36.1234567-00:30", datetime(2026, 10, 8, 15, 45, 36, 123456, UTC)),
        ("20260301020304.000005+060", datetime(2026, 3, 1, 1, 3, 4, 5, UTC)),
    ],
)
def test_moments(text: str, expected: datetime) -> None:
    assert read_moment(text) == expected
    wrapped = instance(f"<p:A><cim:Datetime>{text}</cim:Datetime></p:A>")
    assert wrapped.moment("A") == instance(f"<p:A>{text}</p:A>").moment("A") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-10-08",
        "2026-10-08T15:15:36",
        "2026-13-08T15:15:36Z",
        "2026-02-29T00:00:00Z",
        "20260301******.******+***",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:00",
        "2026-10-08T15:15:36.Z",
    ],
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueRefused):
        read_moment(text)


def test_never_is_none_and_refused_where_a_moment_is_needed() -> None:
    never = instance("<p:A><cim:Datetime>1601-01-01T00:00:00Z</cim:Datetime></p:A>")
    assert never.moment_or_none("A") is None
    with pytest.raises(ValueRefused, match=r"Win32_X\.A is null"):
        never.moment("A")
    assert instance("<p:A>1601-01-01T09:00:00+09:00</p:A>").moment_or_none("A") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("P0DT0H0M5S", timedelta(seconds=5)),
        ("P1DT2H3M4.5S", timedelta(days=1, hours=2, minutes=3, seconds=4.5)),
        ("PT0.000001S", timedelta(microseconds=1)),
        ("P0Y0M3D", timedelta(days=3)),
        ("-PT5S", timedelta(seconds=-5)),
        ("00000001020304.000005:000", timedelta(days=1, hours=2, minutes=3, seconds=4, microseconds=5)),
    ],
)
def test_intervals(text: str, expected: timedelta) -> None:
    assert read_interval(text) == expected
    assert instance(f"<p:A><cim:Interval>{text}</cim:Interval></p:A>").interval("A") == expected


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "P1Y", "P1M", "5", "P1DT", "PT1.S", "99999999999999.000000:001"]
)
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(ValueRefused):
        read_interval(text)


def test_spelled_times_have_all_their_digits() -> None:
    early = datetime(999, 1, 2, 3, 4, 5, 6, UTC)
    assert iso_moment(early) == "0999-01-02T03:04:05.000006Z"
    assert cim_moment(early) == "09990102030405.000006+000"
    assert iso_interval(timedelta(seconds=3661)) == "P0DT1H1M1.000000S"
    assert cim_interval(timedelta(seconds=3661)) == "00000000010101.000000:000"


def test_nested_and_unknown_shapes() -> None:
    found = instance(
        '<p:A xsi:type="p:Msvm_Y_Type"><p:B>1</p:B></p:A><p:Odd><p:B/></p:Odd>'
        "<p:Far><a:Address>http://other/</a:Address></p:Far><cim:Location><a:Address/></cim:Location>"
    )
    assert found.embedded("A").class_name == "Msvm_Y"
    assert found.embedded("A").integer("B") == 1
    assert found.names == {"A", "Odd", "Far"}
    for name in ("Odd", "Far"):
        with pytest.raises(ValueRefused, match=rf"Win32_X\.{name} is refused"):
            found.text(name)
        with pytest.raises(ValueRefused, match=rf"Win32_X\.{name} is refused"):
            found.ref(name)


def test_a_reference_may_come_as_a_path() -> None:
    found = instance('<p:A>root/cimv2:Win32_Y.Id="1"</p:A><p:B>no path</p:B>')
    assert found.ref("A") == Ref("root/cimv2", "Win32_Y", {"Id": "1"})
    with pytest.raises(
        ValueRefused, match=r"Win32_X\.B is refused: the keys of the WMI object path 'no path'"
    ):
        found.ref("B")


def test_embedded_text() -> None:
    text = (
        '<INSTANCE CLASSNAME="Msvm_VirtualHardDiskSettingData"><QUALIFIER NAME="dynamic" TYPE="boolean"/>'
        '<PROPERTY NAME="Path" CLASSORIGIN="x" TYPE="string"><VALUE>C:\\a &amp; b.vhdx</VALUE></PROPERTY>'
        '<PROPERTY NAME="ParentPath" TYPE="string"></PROPERTY>'
        '<PROPERTY NAME="Size" TYPE="uint64"><VALUE>18446744073709551615</VALUE></PROPERTY>'
        '<PROPERTY.ARRAY NAME="Ids" TYPE="string"><VALUE.ARRAY><VALUE>a</VALUE><VALUE.NULL/></VALUE.ARRAY>'
        '</PROPERTY.ARRAY><PROPERTY.ARRAY NAME="None" TYPE="string"></PROPERTY.ARRAY>'
        '<PROPERTY.REFERENCE NAME="Ref"/></INSTANCE>'
    )
    outer = instance(
        f"<p:A>{text.replace('&', '&amp;').replace('<', '&lt;')}</p:A><p:B><![CDATA[{text}]]></p:B>"
    )
    for found in (outer.embedded("A"), outer.embedded("B"), EmbeddedInstance.parse(text)):
        assert found.class_name == "Msvm_VirtualHardDiskSettingData"
        assert found.text("Path") == "C:\\a & b.vhdx"
        assert found.text_or_none("ParentPath") is None
        assert found.integer("Size") == 2**64 - 1
        assert found.texts("None") == ()
        with pytest.raises(ValueRefused, match="Ids is refused: null is not a text"):
            found.texts("Ids")
        with pytest.raises(ValueRefused, match="Ref is refused"):
            found.ref("Ref")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no xml",
        "<CLASS/>",
        "<INSTANCE/>",
        '<!DOCTYPE x [<!ENTITY a "b">]><INSTANCE CLASSNAME="X"/>',
        '<INSTANCE CLASSNAME="X">',
    ],
)
def test_embedded_text_that_is_none_is_refused_by_name(text: str) -> None:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    with pytest.raises(ValueRefused, match=r"^Win32_X\.A is refused: "):
        instance(f"<p:A>{escaped}</p:A>").embedded("A")


def test_projections_come_in_either_form() -> None:
    w = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
    for xml in (
        f'<w:XmlFragment xmlns:w="{w}"><A>1</A><B>x</B></w:XmlFragment>',
        f'<w:XmlFragment xmlns:w="{w}"><Win32_X><A>1</A><B>x</B></Win32_X></w:XmlFragment>',
        f'<w:XmlFragment xmlns:w="{w}"><p:Win32_X xmlns:p="{URI}"><p:A>1</p:A><p:B>x</p:B></p:Win32_X>'
        "</w:XmlFragment>",
        "<Win32_X><A>1</A><B>x</B></Win32_X>",
    ):
        found = read_instance(ElementTree.fromstring(xml), "root/cimv2", "Win32_X")
        assert (found.class_name, found.namespace) == ("Win32_X", "root/cimv2")
        assert (found.integer("A"), found.text("B")) == (1, "x")


@pytest.mark.parametrize(
    "xml",
    [
        '<x xmlns="urn:other"/>',
        f'<p:Win32_Y xmlns:p="{URI}"/>',
        '<x xmlns="http://schemas.microsoft.com/wbem/wsman/1/wmi/Win32_X"/>',
        '<w:XmlFragment xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"/>',
    ],
)
def test_what_is_no_instance_is_nonsense(xml: str) -> None:
    with pytest.raises(HostNonsense):
        read_instance(ElementTree.fromstring(xml), "root/cimv2", "")
