"""Replies of the lab beside recordings of a real host: the same trees, names, namespaces, nil forms, values.

First the lab's wire with the recorded values, which must come out as the very bytes; then the whole lab, with
its own VMs, in the same shape.
"""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from tests.lab_hosts import SMALL, LabHost
from tests.shapes import differences, form_of, recordings, shape_of
from tests.toy_host import ENUMERATE, PULL, WMI, ToyHost, affected_element, envelope, host_system, vm_system
from vmkeep_lab.cim import Instance
from vmkeep_lab.wire import Provider
from vmkeep_lab.wire.disturbances import Disturbances
from vmkeep_lab.wire.service import Service
from vmkeep_lab.wire.settings import Settings

pytestmark = pytest.mark.quick

RECORDED: Final = recordings()
N: Final = "{http://schemas.xmlsoap.org/ws/2004/09/enumeration}"
NIL: Final = "{http://www.w3.org/2001/XMLSchema-instance}nil"

# The instances of a toy host that has the recorded values, the first of which is pulled.
RECORDED_VALUES: Final = {
    "computersystem_pull_host": [host_system(), vm_system()],
    "computersystem_pull_vm_off": [vm_system(), host_system()],
    "affectedjobelement_pull_created": [affected_element()],
}
# The recorded host is newer than both hosts of the contract: it has two properties more.
NEWER: Final = ("ManagementVtlImageFileName", "ManagementVtlImageVersion")
SYSTEM: Final = "/Envelope/Body/PullResponse/Items/Msvm_ComputerSystem"


def newer(*names: str) -> set[str]:
    return {f"{SYSTEM}: lacks {{{WMI}Msvm_ComputerSystem}}{name}" for name in (*NEWER, *names)}


def pulled(provider: Provider, class_name: str, place: int = 0) -> bytes:
    """Return the reply to one Pull of a class without a number, as the recordings hold it: one item."""
    service = Service(provider, "HV01", Settings(), Disturbances())
    uri = f"{WMI}{class_name}"
    reply = service.answer(envelope(ENUMERATE, uri, "<n:Enumerate/>"), None, "admin", "").body
    for _ in range(place + 1):
        context = ElementTree.fromstring(reply).findtext(f".//{N}EnumerationContext", "")
        body = f"<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext></n:Pull>"
        reply = service.answer(envelope(PULL, uri, body), None, "admin", "").body
    return reply


def toy(instances: list[Instance]) -> bytes:
    host = ToyHost()
    host.all = instances
    return pulled(host, instances[0].class_name)


def test_every_recording_is_compared() -> None:
    assert set(RECORDED) == set(RECORDED_VALUES)
    assert len(RECORDED) == 3


@pytest.mark.parametrize("name", RECORDED_VALUES)
def test_the_shape_is_the_recorded_one(name: str) -> None:
    expected = newer() if name.startswith("computersystem") else set()
    assert set(differences(shape_of(RECORDED[name]), shape_of(toy(RECORDED_VALUES[name])))) == expected


@pytest.mark.parametrize("name", RECORDED_VALUES)
def test_recorded_values_come_out_as_the_recorded_bytes(name: str) -> None:
    """All of the document: its prefixes, too, which mean nothing, and the order of attributes."""
    recorded = RECORDED[name].decode().removesuffix("\n")
    for lacking in NEWER:
        recorded = recorded.replace(f'<p:{lacking} xsi:nil="true"/>', "")
    assert _without_ids(toy(RECORDED_VALUES[name]).decode()) == _without_ids(recorded)


def _without_ids(document: str) -> str:
    """Leave out what no two replies share; in which letters a message's id is written, no recording tells."""
    return re.sub(r"uuid:[0-9A-Fa-f-]{36}|(?<=<a:RelatesTo>)[^<]+", "ID", document)


# --- the whole lab --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def japanese(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabHost]:
    """A host that speaks Japanese, as the recorded one does."""
    text = SMALL.replace('name = "HV"', 'name = "HV"\nlocale = "ja-JP"')
    lab = LabHost.small(Path(tmp_path_factory.mktemp("japanese")) / "state", text)
    yield lab
    lab.host.stop()


def place_of(lab: LabHost, class_name: str, found: Instance) -> int:
    return lab.all(class_name).index(found)


def test_the_labs_own_host_looks_like_the_recorded_one(japanese: LabHost) -> None:
    entry = japanese.vm("HV")
    ours = pulled(japanese.host, "Msvm_ComputerSystem", place_of(japanese, "Msvm_ComputerSystem", entry))
    recorded = RECORDED["computersystem_pull_host"]
    assert set(differences(shape_of(recorded), shape_of(ours))) - newer() == set()
    assert texts(ours, "Caption", "Description") == texts(recorded, "Caption", "Description")


def test_a_vm_of_the_lab_looks_like_the_recorded_one(japanese: LabHost) -> None:
    off = japanese.vm("chained")
    ours = pulled(japanese.host, "Msvm_ComputerSystem", place_of(japanese, "Msvm_ComputerSystem", off))
    recorded = RECORDED["computersystem_pull_vm_off"]
    assert set(differences(shape_of(recorded), shape_of(ours))) - newer() == set()
    told = (
        "Caption",
        "Description",
        "EnabledState",
        "RequestedState",
        "OperationalStatus",
        "StatusDescriptions",
    )
    assert texts(ours, *told) == texts(recorded, *told)


def test_what_a_job_of_the_lab_made_looks_like_the_recorded_one(japanese: LabHost) -> None:
    japanese.checkpoint("one")
    rows = japanese.all("Msvm_AffectedJobElement")
    created = next(row for row in rows if row.values["ElementEffects"] == [5])
    ours = pulled(
        japanese.host,
        "Msvm_AffectedJobElement",
        place_of(japanese, "Msvm_AffectedJobElement", created),
    )
    found = set(differences(shape_of(RECORDED["affectedjobelement_pull_created"]), shape_of(ours)))
    # The recorded job touched one element; ours comes before others in its list.
    assert {each for each in found if "/Items" in each} == set()


def texts(reply: bytes, *names: str) -> dict[str, str | None]:
    root = ElementTree.fromstring(reply)
    return {name: root.findtext(f".//{{{WMI}Msvm_ComputerSystem}}{name}") for name in names}


# --- the comparison itself -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('<p:InstanceID xsi:nil="true"/>', "<p:InstanceID/>", "attributes"),
        ('<p:InstanceID xsi:nil="true"/>', '<p:InstanceID xsi:nil="1"/>', "attributes"),
        ('<p:InstanceID xsi:nil="true"/>', '<p:InstanceID xsi:nil="true"> </p:InstanceID>', "blanks"),
        ('<p:InstanceID xsi:nil="true"/>', "", "lacks"),
        ("<p:Caption>仮想マシン</p:Caption>", "<p:Caption/>", "text is nothing"),
        (
            "<p:OperationalStatus>2</p:OperationalStatus>",
            "<p:OperationalStatus>2</p:OperationalStatus>" * 2,
            "has",
        ),
        ("<p:EnabledState>3</p:EnabledState>", "<p:EnabledState>three</p:EnabledState>", "recorded number"),
        ("<p:EnabledState>3</p:EnabledState>", "<p:EnabledState>03</p:EnabledState>", "recorded number"),
        ("36.68424Z", "36.684240Z", "odd time"),
        ("36.68424Z", "36.68424+00:00", "odd time"),
        ("00:00:00Z", "00:00:00.000000Z", "odd time"),
        ("<cim:Datetime>2026-10-08T15:15:36.68424Z</cim:Datetime>", "20261008151536.684240+000", "lacks"),
        ("cim:Datetime", "cim:Interval", "lacks"),
        ("2004/09/enumeration", "2004/09/other", "has"),
        ("PullResponse</a:Action>", "EnumerateResponse</a:Action>", "text is"),
        ('xsi:type="p:Msvm_ComputerSystem_Type"', 'xsi:type="p:Other_Type"', "attributes"),
        ("</p:Caption>", "</p:Caption>\n  ", "between"),
        (
            "<p:Status>OK</p:Status><p:StatusDescriptions>正常稼働中</p:StatusDescriptions>",
            "<p:StatusDescriptions>正常稼働中</p:StatusDescriptions><p:Status>OK</p:Status>",
            "order",
        ),
        (  # also where something is missing elsewhere
            '<p:InstanceID xsi:nil="true"/>'
            "<p:LastApplicationConsistentReplicationTime><cim:Datetime>1601-01-01T00:00:00Z</cim:Datetime>"
            "</p:LastApplicationConsistentReplicationTime><p:LastReplicationTime><cim:Datetime>"
            "1601-01-01T00:00:00Z</cim:Datetime></p:LastReplicationTime><p:LastReplicationType>0",
            "<p:LastReplicationTime><cim:Datetime>1601-01-01T00:00:00Z</cim:Datetime></p:LastReplicationTime>"
            "<p:LastApplicationConsistentReplicationTime><cim:Datetime>1601-01-01T00:00:00Z</cim:Datetime>"
            "</p:LastApplicationConsistentReplicationTime><p:LastReplicationType>0",
            "order",
        ),
    ],
)
def test_the_comparison_bites(old: str, new: str, told: str) -> None:
    recorded = RECORDED["computersystem_pull_vm_off"].decode()
    assert old in recorded
    changed = recorded.replace(old, new).encode()
    assert told in " ".join(differences(shape_of(recorded.encode()), shape_of(changed)))


def test_prefixes_mean_nothing() -> None:
    recorded = RECORDED["affectedjobelement_pull_created"].decode()
    changed = re.sub(r"(</?|xmlns:)([anw])(?=[:=])", r"\1other\2", recorded)
    assert changed != recorded
    assert list(differences(shape_of(recorded.encode()), shape_of(changed.encode()))) == []


@pytest.mark.parametrize("name", RECORDED_VALUES)
def test_no_element_may_be_other_than_recorded(name: str) -> None:
    """Each element of each recording in turn: lost, doubled, renamed, null or not, empty, of another form."""
    recorded = shape_of(RECORDED[name])
    root = ElementTree.fromstring(RECORDED[name])
    seen = 0
    for place in range(1, len(list(root.iter()))):
        for change in (_lose, _double, _rename, _rename_space, _flip_nil, _reform, _swap):
            changed = copy.deepcopy(root)
            if change(changed, list(changed.iter())[place]):
                seen += 1
                ours = shape_of(ElementTree.tostring(changed))
                assert list(differences(recorded, ours)), f"{change.__name__} {list(root.iter())[place].tag}"
    assert seen > 100


def _parent(root: Element, element: Element) -> Element:
    return next(each for each in root.iter() if element in list(each))


def _lose(root: Element, element: Element) -> bool:
    _parent(root, element).remove(element)
    return True


def _double(root: Element, element: Element) -> bool:
    parent = _parent(root, element)
    parent.insert(list(parent).index(element), copy.deepcopy(element))
    return True


def _rename(_: Element, element: Element) -> bool:
    element.tag += "s"
    return True


def _rename_space(_: Element, element: Element) -> bool:
    element.tag = element.tag.replace("}", "/}")
    return True


def _flip_nil(_: Element, element: Element) -> bool:
    if element.get(NIL):
        del element.attrib[NIL]
    else:
        element.set(NIL, "true")
    return True


def _reform(_: Element, element: Element) -> bool:
    """Say nothing where something was said, and something where nothing was."""
    element.text = "" if form_of(element.text or "") != "nothing" else "7"
    return True


def _swap(root: Element, element: Element) -> bool:
    """Put it behind the next one, where that is of another name."""
    siblings = _parent(root, element)
    place = list(siblings).index(element)
    if place + 1 == len(siblings) or siblings[place + 1].tag == element.tag:
        return False
    siblings.remove(element)
    siblings.insert(place + 1, element)
    return True
