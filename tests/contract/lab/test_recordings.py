"""Replies of the lab beside recordings of a real host: the same trees, names, namespaces and nil forms."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.toy_host import ENUMERATE, PULL, WMI, ToyHost, affected_element, envelope, host_system, vm_system
from vmkeep_lab.cim import Instance
from vmkeep_lab.wire.disturbances import Disturbances
from vmkeep_lab.wire.record import differences, recordings, shape_of
from vmkeep_lab.wire.service import Service
from vmkeep_lab.wire.settings import Settings

pytestmark = pytest.mark.quick

RECORDED = recordings(Path(__file__).parents[2] / "data" / "lab")
N = "{http://schemas.xmlsoap.org/ws/2004/09/enumeration}"


def pulled(instances: list[Instance]) -> bytes:
    """Return the reply to the first Pull of a class, as the recordings hold it."""
    host = ToyHost()
    host.all = instances
    service = Service(host, "HV01", Settings(), Disturbances())
    uri = f"{WMI}{instances[0].class_name}"
    answer = service.answer(envelope(ENUMERATE, uri, "<n:Enumerate/>"), None, "admin", "")
    context = ElementTree.fromstring(answer.body).findtext(f".//{N}EnumerationContext", "")
    body = f"<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext></n:Pull>"
    return service.answer(envelope(PULL, uri, body), None, "admin", "").body


# The recorded host is newer than both hosts of the contract: it has two properties more.
NEWER = {
    f"/Envelope/Body/PullResponse/Items/Msvm_ComputerSystem: lacks {{{WMI}Msvm_ComputerSystem}}{name}"
    for name in ("ManagementVtlImageFileName", "ManagementVtlImageVersion")
}


@pytest.mark.parametrize(
    ("name", "instances", "expected"),
    [
        ("computersystem_pull_host", [host_system(), vm_system()], NEWER),
        ("computersystem_pull_vm_off", [vm_system(), host_system()], NEWER),
        ("affectedjobelement_pull_created", [affected_element()], set()),
    ],
)
def test_the_shape_is_the_recorded_one(name: str, instances: list[Instance], expected: set[str]) -> None:
    ours = pulled(instances)
    assert set(differences(shape_of(RECORDED[name]), shape_of(ours))) == expected


def test_the_values_are_the_recorded_ones() -> None:
    ours = pulled([affected_element()]).decode()
    recorded = RECORDED["affectedjobelement_pull_created"].decode()
    start, end = recorded.index("<n:Items>"), recorded.index("</n:Items>")
    assert recorded[start:end] in ours
    ours = pulled([vm_system(), host_system()]).decode()
    recorded = RECORDED["computersystem_pull_vm_off"].decode()
    for name in ("ManagementVtlImageFileName", "ManagementVtlImageVersion"):
        recorded = recorded.replace(f'<p:{name} xsi:nil="true"/>', "")
    start, end = recorded.index("<n:Items>"), recorded.index("</n:Items>")
    assert recorded[start:end] in ours


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('<p:InstanceID xsi:nil="true"/>', "<p:InstanceID/>", "attributes"),
        ('<p:InstanceID xsi:nil="true"/>', "", "lacks"),
        ("<p:Caption>仮想マシン</p:Caption>", "<p:Caption/>", "no text"),
        ("cim:Datetime", "cim:Interval", "lacks"),
        ("2004/09/enumeration", "2004/09/other", "has"),
        (
            "<p:Status>OK</p:Status><p:StatusDescriptions>正常稼働中</p:StatusDescriptions>",
            "<p:StatusDescriptions>正常稼働中</p:StatusDescriptions><p:Status>OK</p:Status>",
            "order",
        ),
    ],
)
def test_the_comparison_bites(old: str, new: str, told: str) -> None:
    recorded = RECORDED["computersystem_pull_vm_off"].decode()
    assert old in recorded
    changed = recorded.replace(old, new).encode()
    assert told in " ".join(differences(shape_of(recorded.encode()), shape_of(changed)))
