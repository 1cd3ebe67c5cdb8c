"""A provider with a handful of instances of the real schema, for the tests of the lab's wire."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from vmkeep_lab.cim import (
    CIMV2,
    V2,
    WBEM_E_FAILED,
    WBEM_E_INVALID_PARAMETER,
    Arguments,
    CimValue,
    CommandResult,
    Instance,
    Ref,
    WmiError,
)
from vmkeep_lab.schema import Schema

NEVER: Final = datetime(1601, 1, 1, tzinfo=UTC)
VM_GUID: Final = "00000000-0000-4000-8000-000000000012"
JOB_ID: Final = "00000000-0000-4000-8000-000000000066"
SETTING_ID: Final = "Microsoft:00000000-0000-4000-8000-000000000083"
WMI: Final = f"http://schemas.microsoft.com/wbem/wsman/1/wmi/{V2}/"
SERVICE: Final = "Msvm_VirtualSystemSnapshotService"


def host_system() -> Instance:
    """Return the host's own entry, with the values of the recording."""
    return Instance(
        "Msvm_ComputerSystem",
        {
            "Caption": "ホスト コンピューター システム",
            "CreationClassName": "Msvm_ComputerSystem",
            "Description": "Microsoft ホスト コンピューター システム",
            "ElementName": "scrubbed-1",
            "EnabledDefault": 2,
            "EnabledState": 2,
            "HealthState": 5,
            "Name": "scrubbed-1",
            "NumberOfNumaNodes": 1,
            "OperationalStatus": [2],
            "RequestedState": 12,
            "ResetCapability": 1,
            "Status": "OK",
            "StatusDescriptions": ["OK"],
        },
    )


def vm_system(name: str = VM_GUID) -> Instance:
    """Return a VM that is off, with the values of the recording."""
    return Instance(
        "Msvm_ComputerSystem",
        {
            "Caption": "仮想マシン",
            "CreationClassName": "Msvm_ComputerSystem",
            "Description": "Microsoft Virtual Machine",
            "ElementName": "scrubbed-9",
            "EnabledDefault": 3,
            "EnabledState": 3,
            "EnhancedSessionModeState": 3,
            "FailedOverReplicationType": 0,
            "HealthState": 5,
            "InstallDate": datetime(2026, 10, 8, 15, 15, 36, 684240, UTC),
            "LastApplicationConsistentReplicationTime": NEVER,
            "LastReplicationTime": NEVER,
            "LastReplicationType": 0,
            "Name": name,
            "NumberOfNumaNodes": 1,
            "OnTimeInMilliseconds": 0,
            "OperationalStatus": [2],
            "ReplicationHealth": 0,
            "ReplicationMode": 0,
            "ReplicationState": 0,
            "RequestedState": 5,
            "ResetCapability": 1,
            "Status": "OK",
            "StatusDescriptions": ["正常稼働中"],
            "TimeOfLastConfigurationChange": datetime(2026, 10, 8, 15, 15, 36, 842286, UTC),
            "TimeOfLastStateChange": NEVER,
        },
    )


def affected_element() -> Instance:
    """Return the recorded association of a job with the checkpoint it made."""
    return Instance(
        "Msvm_AffectedJobElement",
        {
            "AffectedElement": Ref.to("Msvm_VirtualSystemSettingData", InstanceID=SETTING_ID),
            "AffectingElement": Ref.to("Msvm_ConcreteJob", InstanceID=JOB_ID),
            "ElementEffects": [5],
        },
    )


def _service(name: str) -> Instance:
    return Instance(
        name,
        {
            "CreationClassName": name,
            "Name": name,
            "SystemCreationClassName": "Msvm_ComputerSystem",
            "SystemName": "scrubbed-1",
        },
    )


def _job() -> Instance:
    values: dict[str, CimValue] = {
        "InstanceID": JOB_ID,
        "JobState": 7,
        "ErrorCode": 0,
        "PercentComplete": 100,
        "ElapsedTime": timedelta(minutes=2, seconds=3),
        "TimeBeforeRemoval": timedelta(minutes=5),
    }
    return Instance("Msvm_ConcreteJob", values)


class ToyHost:
    """A host with one VM, one checkpoint, one job; it remembers what it was asked."""

    locale = "ja-JP"

    def __init__(self, vms: int = 1, schema: str = "server23h2") -> None:
        self.schema = Schema.load(schema)
        self.calls: list[tuple[Ref, str, dict[str, CimValue]]] = []
        self.changed: list[Instance] = []
        self.deleted: list[Ref] = []
        self.changed_ranges = 2
        self.may_end = threading.Event()
        self.may_end.set()
        names = [VM_GUID] + [f"00000000-0000-4000-9000-{number:012}" for number in range(1, vms)]
        self.all: list[Instance] = [
            host_system(),
            *(vm_system(name) for name in names),
            Instance("Msvm_VirtualSystemSettingData", {"InstanceID": SETTING_ID, "ElementName": "one"}),
            _job(),
            affected_element(),
            Instance(
                "Msvm_SettingsDefineState",
                {
                    "ManagedElement": _vm_ref(),
                    "SettingData": Ref.to("Msvm_VirtualSystemSettingData", InstanceID=SETTING_ID),
                },
            ),
            *(_service(name) for name in (SERVICE, "Msvm_ImageManagementService")),
            _service("Msvm_VirtualSystemManagementService"),
            Instance(
                "Msvm_KvpExchangeComponent",
                {
                    "CreationClassName": "Msvm_KvpExchangeComponent",
                    "DeviceID": "Microsoft:KVP",
                    "SystemCreationClassName": "Msvm_ComputerSystem",
                    "SystemName": VM_GUID,
                    "GuestIntrinsicExchangeItems": [
                        Instance(
                            "Msvm_KvpExchangeDataItem", {"Name": "OSName", "Data": "A & B <C>", "Source": 2}
                        )
                    ],
                },
            ),
            Instance(
                "Win32_OperatingSystem",
                {"Name": "Windows", "BuildNumber": "17763", "ProductType": 3, "LastBootUpTime": NEVER},
                CIMV2,
            ),
        ]

    def instances(self, namespace: str, class_name: str) -> Iterator[Instance]:
        for each in list(self.all):
            if each.namespace == namespace and self.schema.find(namespace, each.class_name).is_a(class_name):
                yield each

    def invoke(self, target: Ref, method: str, arguments: Arguments) -> Mapping[str, CimValue]:
        self.calls.append((target, method, dict(arguments)))
        if method == "CreateSnapshot":
            return {"Job": Ref.to("Msvm_ConcreteJob", InstanceID=JOB_ID), "ReturnValue": 4096}
        if method == "GetVirtualDiskChanges":
            places = range(self.changed_ranges)
            return {
                "ChangedByteOffsets": [place * 131072 for place in places],
                "ChangedByteLengths": [65536 for _ in places],
                "ProcessedByteLength": arguments["ByteLength"],
                "ReturnValue": 0,
            }
        if method == "GetVirtualHardDiskSettingData":
            data = Instance(
                "Msvm_VirtualHardDiskSettingData", {"BlockSize": 33554432, "Type": 3, "Format": 3}
            )
            return {"SettingData": data, "ReturnValue": 0}
        if method == "GetSummaryInformation":
            summary = Instance("Msvm_SummaryInformation", {"Name": VM_GUID, "Heartbeat": 2})
            return {"SummaryInformation": [summary], "ReturnValue": 0}
        if method == "ApplySnapshot":
            raise WmiError(WBEM_E_FAILED, "Generic failure")
        if method == "ModifySystemSettings":
            return {"ReturnValue": "no number"}
        return {"ReturnValue": 0}

    def put(self, instance: Instance) -> None:
        if instance.values.get("ElementName") == "":
            raise WmiError(WBEM_E_INVALID_PARAMETER, "Invalid parameter")
        self.changed.append(instance)

    def create(self, instance: Instance) -> Ref:
        self.changed.append(instance)
        return Ref.to(instance.class_name, InstanceID="made")

    def delete(self, ref: Ref) -> None:
        self.deleted.append(ref)

    def run_command(self, command: str, arguments: Sequence[str]) -> CommandResult:
        self.may_end.wait(30)
        if command == "fail":
            raise RuntimeError("the model is broken")
        told = " ".join([command, *arguments])
        if command == "long":
            return CommandResult("仮想\r\n".encode() * 20_000, b"", 0)
        return CommandResult(f"{told}\r\n".encode(), "エラー".encode(), 0xC0000005)


def _vm_ref() -> Ref:
    return Ref.to("Msvm_ComputerSystem", CreationClassName="Msvm_ComputerSystem", Name=VM_GUID)


# --- envelopes by hand --------------------------------------------------------------------

_PREFIXES: Final = (
    'xmlns:s="http://www.w3.org/2003/05/soap-envelope" '
    'xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" '
    'xmlns:n="http://schemas.xmlsoap.org/ws/2004/09/enumeration" '
    'xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" '
    'xmlns:b="http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd" '
    'xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd"'
)
ANONYMOUS: Final = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
ENUMERATE: Final = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate"
PULL: Final = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Pull"
RELEASE: Final = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Release"
GET: Final = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get"
WQL: Final = "http://schemas.microsoft.com/wbem/wsman/1/WQL"


def selectors(**values: str) -> str:
    """Return a selector set."""
    rows = "".join(f'<w:Selector Name="{name}">{value}</w:Selector>' for name, value in values.items())
    return f"<w:SelectorSet>{rows}</w:SelectorSet>"


def envelope(action: str, uri: str, body: str, headers: str = "", reply_to: str = ANONYMOUS) -> bytes:
    """Return a request as a client writes it."""
    return (
        f"<s:Envelope {_PREFIXES}><s:Header><a:To>http://host:5985/wsman</a:To>"
        f'<w:ResourceURI s:mustUnderstand="true">{uri}</w:ResourceURI>'
        f"<a:ReplyTo><a:Address>{reply_to}</a:Address></a:ReplyTo>"
        f'<a:Action s:mustUnderstand="true">{action}</a:Action>'
        f"<a:MessageID>uuid:11111111-2222-3333-4444-555555555555</a:MessageID>{headers}</s:Header>"
        f"<s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


def query(text: str, more: str = "<w:OptimizeEnumeration/><w:MaxElements>100</w:MaxElements>") -> bytes:
    """Return an Enumerate with a WQL filter."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    body = f'<n:Enumerate>{more}<w:Filter Dialect="{WQL}">{text}</w:Filter></n:Enumerate>'
    return envelope(ENUMERATE, f"{WMI}*", body)
