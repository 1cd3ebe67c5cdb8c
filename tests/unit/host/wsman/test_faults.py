"""Faults become our errors by number; numbers and forms: wsman-wire.md section 5, failures.md 3.5."""

from typing import Final
from xml.etree import ElementTree

import pytest

from tests.fakes.wsman_host import NS, Reply, fault
from vmkeep.errors import ExitCode
from vmkeep.host.wsman import (
    ActionHappened,
    EnumerationLost,
    EnvelopeTooLarge,
    HostBusy,
    HostError,
    HostFault,
    HostShuttingDown,
    HostTimedOut,
    InstanceMissing,
    RightMissing,
    UnknownToHost,
)
from vmkeep.host.wsman.faults import error_for, read_fault

pytestmark = pytest.mark.quick

_DECLARED: Final = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NS.items())

# As recorded by others from Windows (wsman-wire.md section 5): error_Code is the HRESULT in decimal.
WMI_ERROR: Final = (
    "<s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value>w:InternalError</s:Value></s:Subcode>"
    '</s:Code><s:Reason><s:Text xml:lang="ja-JP">失敗</s:Text></s:Reason><s:Detail><p:MSFT_WmiError '
    'b:IsCIM_Error="true" xmlns:b="http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd" '
    'xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/MSFT_WmiError">'
    '<p:CIMStatusCode xsi:type="cim:cimUnsignedInt">{status}</p:CIMStatusCode>'
    "<p:Message>{message}</p:Message>"
    "<p:MessageID>HRESULT 0x{code:08x}</p:MessageID><p:error_Code>{code}</p:error_Code>"
    '<p:error_Type>HRESULT</p:error_Type><p:error_Source xsi:nil="true"/></p:MSFT_WmiError>'
    "</s:Detail></s:Fault>"
)


def error_of(body: str) -> HostError:
    element = ElementTree.fromstring(f"<x {_DECLARED}>{body}</x>")[0]
    return error_for(read_fault(element), "https://hv01:5986/wsman", "Get of Msvm_X", "the right Read")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (5, RightMissing),
        (2150859012, RightMissing),
        (2150859013, RightMissing),
        (2150859014, RightMissing),
        (2150858752, InstanceMissing),
        (2150858770, InstanceMissing),
        (2150858772, HostBusy),
        (2150858802, HostBusy),
        (2150858815, HostBusy),
        (2150859173, HostBusy),
        (2150859174, HostBusy),
        (2150859175, HostBusy),
        (2150859176, HostBusy),
        (1018, HostBusy),
        (2150858793, HostTimedOut),
        (2150858779, EnumerationLost),
        (2150858824, EnvelopeTooLarge),
        (2150858790, EnvelopeTooLarge),
        (2150858829, ActionHappened),
        (2150858843, UnknownToHost),
        (2150858778, UnknownToHost),
        (2150858817, UnknownToHost),
        (2150858811, UnknownToHost),
        (2150859003, UnknownToHost),
        (87, UnknownToHost),
        (1359, HostFault),
        (2150858755, HostFault),
    ],
)
def test_numbers_of_ws_management(code: int, expected: type[HostError]) -> None:
    error = error_of(fault(code).body)
    assert type(error) is expected
    assert error.context["code"] == code
    assert error.context["hresult"] is None  # these are WS-Management's own numbers
    assert error.context["host_text"] == "Unzulässig."


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0x80041003, RightMissing),
        (0x80041002, InstanceMissing),
        (0x8004100E, UnknownToHost),
        (0x80041010, UnknownToHost),
        (0x80041017, UnknownToHost),
        (0x80041033, HostShuttingDown),
        (0x80041001, HostFault),
        (0x800705AA, HostFault),
    ],
)
def test_numbers_of_wmi(code: int, expected: type[HostError]) -> None:
    error = error_of(WMI_ERROR.format(code=code, status=1, message="だめ"))
    assert type(error) is expected
    assert error.context["hresult"] == code
    assert error.context["host_text"] == "だめ"
    assert f"0x{code:08X}" in error.message or type(error) is RightMissing


def test_a_number_inside_decides_too() -> None:
    inside = (
        '<f:ProviderFault provider="WMI Provider" path="C:\\x.dll">'
        '<f:WSManFault Code="2147749890" Machine="x">'
        "<f:Message>nicht da</f:Message></f:WSManFault></f:ProviderFault>"
    )
    error = error_of(fault(2150858755, inside=inside).body)
    assert type(error) is InstanceMissing
    assert error.context["codes"] == (2150858755, 0x80041002)
    assert error.context["hresult"] == 0x80041002
    assert error.context["provider"] == "WMI Provider"


def test_a_translated_sentence_decides_nothing() -> None:
    for text in (
        "Access is denied.",
        "The WinRM client ... exceeded the configured MaxEnvelopeSize quota",
        "",
    ):
        assert type(error_of(fault(1359, text=text).body)) is HostFault


@pytest.mark.parametrize(
    ("subcode", "expected"),
    [
        ("w:AccessDenied", RightMissing),
        ("w:QuotaLimit", HostBusy),
        ("q:EncodingLimit", EnvelopeTooLarge),
        ("a:DestinationUnreachable", InstanceMissing),
        ("w:SchemaValidationError", UnknownToHost),
        ("w:Whatever", HostFault),
    ],
)
def test_without_a_number_the_subcode_decides(subcode: str, expected: type[HostError]) -> None:
    body = (
        f"<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>{subcode}</s:Value></s:Subcode>"
        "</s:Code><s:Reason><s:Text>x</s:Text></s:Reason></s:Fault>"
    )
    assert type(error_of(body)) is expected


def test_the_missing_right_is_named() -> None:
    error = error_of(fault(5, "w:AccessDenied").body)
    assert "it needs the right Read" in error.message
    assert error.exit_code is ExitCode.HOST_UNREACHABLE


def test_the_hosts_text_cannot_steer_a_terminal() -> None:
    error = error_of(fault(1359, text="red\u202e\u200b evil").body)
    assert "\u202e" not in error.message
    assert "\\u202e" in error.message


def test_odd_details_are_read_and_not_obeyed() -> None:
    for inside in (
        "",
        "<s:Detail/>",
        '<s:Detail><f:WSManFault Code="x"/></s:Detail>',
        '<s:Detail><f:WSManFault Code="99999999999"/></s:Detail>',
    ):
        assert type(error_of(f"<s:Fault>{inside}</s:Fault>")) is HostFault


def test_the_fakes_fault_has_the_form_of_the_table() -> None:
    reply: Reply = fault(2150858793)
    assert reply.status == 500
    assert 'Code="2150858793"' in reply.body
