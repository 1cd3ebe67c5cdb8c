"""A lab in a process of its own, and pypsrp as a client that shares no code with it."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from pypsrp.wsman import SelectorSet, WSMan

from tests.forked import LAB, Forked

V2 = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2"
ENUMERATION = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
WSMAN = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
ADDRESSING = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
SOAP = "http://www.w3.org/2003/05/soap-envelope"
GET = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get"
NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"
_PATIENCE_S = 30.0

Value = str | list[str] | None


class Door:
    """The lab's control socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        self._lines = self._socket.makefile("rb")

    def ask(self, do: str, **fields: object) -> dict[str, Any]:
        """Ask for something; what the lab refuses is a failure of the test."""
        self._socket.sendall(json.dumps({"do": do, **fields}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._lines.readline())
        assert answer["ok"], answer
        return answer

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


@dataclass
class Served:
    """A process of the lab that serves a host: what it said of itself."""

    facts: dict[str, Any]
    process: subprocess.Popen[str]

    @property
    def password(self) -> str:
        return Path(self.facts["password_file"]).read_text().strip()


@dataclass
class Lab(Served):
    """A simulated host, and the door behind which it can be disturbed."""

    control: Door

    def real(self, path: str) -> Path:
        """The file behind a path of the host."""
        ((prefix, address),) = self.facts["paths"].items()
        assert path.startswith(prefix)
        return Path(address.removeprefix("file://") + path.removeprefix(prefix).replace("\\", "/"))


def written(scenario: str, state: Path) -> str:
    """Write a scenario down beside the state of its host; return what the lab takes."""
    file = state.with_name(f"{state.name}.toml")
    file.write_text(scenario, "utf-8")
    return str(file)


@contextmanager
def running_lab(
    scenario: str, state: Path, *more: str, environment: Mapping[str, str] | None = None
) -> Iterator[Lab]:
    """Start a lab, and end it by closing its standard input.

    ``scenario`` is a name, a file, or the text of one, which then lies beside the
    state; ``environment`` goes over this process's own.
    """
    if "\n" in scenario:
        scenario = written(scenario, state)
    words = ("serve", "--scenario", scenario, "--state", str(state), *more)
    with _serving(*words, environment=environment) as (process, facts):
        control = Door(facts["control"])
        try:
            yield Lab(facts, process, control)
        finally:
            control.close()


@contextmanager
def running_replay(trace: Path, *more: str) -> Iterator[Served]:
    """Serve what a trace holds, and end it by closing its standard input."""
    with _serving("replay", str(trace), *more) as (process, facts):
        yield Served(facts, process)


def start_lab(*arguments: str, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """Start the lab's program with pipes to its standard input and output."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    if not environment:
        return Forked(LAB, arguments, **pipes)
    command = [sys.executable, "-m", "vmkeep_lab", *arguments]
    return subprocess.Popen(command, env={**os.environ, **environment}, **pipes)


def judged(truth: str | Path, *files: Path) -> tuple[int, dict[str, Any]]:
    """How the lab's judge, another process, ended, and what it said of restored disks."""
    words = ["judge", "--truth", str(truth), *map(str, files)]
    pipe = subprocess.PIPE
    with Forked(LAB, words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
        out, err = process.communicate(timeout=_PATIENCE_S)
    assert err == b"", err
    verdict: dict[str, Any] = json.loads(out)
    return process.returncode, verdict


@contextmanager
def _serving(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    process = start_lab(*arguments, environment=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(_PATIENCE_S)
        process.stdout.close()


class ForeignClient:
    """WMI over WS-Management with pypsrp's transport and hand-made bodies."""

    def __init__(self, lab: Served) -> None:
        facts = lab.facts
        self._wsman = WSMan(
            facts["address"],
            port=facts["port"],
            ssl=facts["transport"] == "https",
            auth=facts["auth"],
            username=facts["user"],
            password=lab.password,
            encryption="auto" if facts["transport"] == "https" else "always",
            cert_validation=facts.get("ca_file", True),
        )

    def close(self) -> None:
        self._wsman.close()

    def query(self, wql: str) -> list[dict[str, Any]]:
        """Enumerate by WQL, page by page."""
        body = ET.fromstring(
            f'<n:Enumerate xmlns:n="{ENUMERATION}" xmlns:w="{WSMAN}"><w:OptimizeEnumeration/>'
            f"<w:MaxElements>50</w:MaxElements>"
            f'<w:Filter Dialect="http://schemas.microsoft.com/wbem/wsman/1/WQL">{escape(wql)}</w:Filter>'
            "</n:Enumerate>"
        )
        reply = self._wsman.invoke(f"{ENUMERATION}/Enumerate", f"{V2}/*", body)
        found = _items(reply)
        while not _is_over(reply):
            context = reply.find(f".//{{{ENUMERATION}}}EnumerationContext")
            assert context is not None
            pull = ET.fromstring(
                f'<n:Pull xmlns:n="{ENUMERATION}"><n:EnumerationContext>{context.text}</n:EnumerationContext>'
                "<n:MaxElements>50</n:MaxElements></n:Pull>"
            )
            reply = self._wsman.invoke(f"{ENUMERATION}/Pull", f"{V2}/*", pull)
            found += _items(reply)
        return found

    def get(self, class_name: str, **keys: str) -> dict[str, Any]:
        reply = self._wsman.invoke(GET, f"{V2}/{class_name}", None, selector_set=_selectors(keys))
        body = reply.find(f"{{{SOAP}}}Body")
        assert body is not None
        return _values(body[0])

    def call(self, service: str, method: str, *parameters: str) -> dict[str, Any]:
        """Invoke a method of a service; parameters are elements with the prefix p."""
        uri = f"{V2}/{service}"
        body = ET.fromstring(f'<p:{method}_INPUT xmlns:p="{uri}">{"".join(parameters)}</p:{method}_INPUT>')
        keys = {"CreationClassName": service}
        reply = self._wsman.invoke(f"{uri}/{method}", uri, body, selector_set=_selectors(keys))
        output = reply.find(f".//{{{uri}}}{method}_OUTPUT")
        assert output is not None
        return _values(output)

    def destroy_reference_point(self, point: str) -> None:
        """Take a reference point away, by the id that the lab's door tells."""
        ref = reference(
            "AffectedReferencePoint", "Msvm_VirtualSystemReferencePoint", InstanceID=f"Microsoft:{point}"
        )
        self.finish(self.call("Msvm_VirtualSystemReferencePointService", "DestroyReferencePoint", ref))

    def destroy_checkpoint(self, checkpoint: str) -> None:
        """Take a checkpoint away, by the id that the lab's door tells."""
        ref = reference(
            "AffectedSnapshot", "Msvm_VirtualSystemSettingData", InstanceID=f"Microsoft:{checkpoint}"
        )
        self.finish(self.call("Msvm_VirtualSystemSnapshotService", "DestroySnapshot", ref))

    def finish(self, answer: dict[str, Any]) -> dict[str, str]:
        """Wait for a job and return the element it made, found through the association; {} for none."""
        assert answer["ReturnValue"] == "4096", answer
        job_id = answer["Job"]["InstanceID"]
        deadline = time.monotonic() + _PATIENCE_S
        while (job := self.get("Msvm_ConcreteJob", InstanceID=job_id))["JobState"] in ("2", "3", "4"):
            assert time.monotonic() < deadline, job
            time.sleep(0.02)
        assert (job["JobState"], job["ErrorCode"]) == ("7", "0"), job
        rows = self.query("SELECT * FROM Msvm_AffectedJobElement")
        mine = [each for each in rows if each["AffectingElement"]["InstanceID"] == job_id]
        made = [each["AffectedElement"] for each in mine if each["ElementEffects"] == "5"]
        return made[0] if made else {}


def reference(name: str, class_name: str, **keys: str) -> str:
    """A parameter that is a reference, in the form that real hosts take: no EndpointReference around it."""
    selectors = "".join(f'<w:Selector Name="{key}">{escape(text)}</w:Selector>' for key, text in keys.items())
    return (
        f'<p:{name} xmlns:a="{ADDRESSING}" xmlns:w="{WSMAN}">'
        f"<a:Address>{ADDRESSING}/role/anonymous</a:Address>"
        f"<a:ReferenceParameters><w:ResourceURI>{V2}/{class_name}</w:ResourceURI>"
        f"<w:SelectorSet>{selectors}</w:SelectorSet></a:ReferenceParameters></p:{name}>"
    )


def text(name: str, value: object) -> str:
    """A parameter that is a text or a number."""
    return f"<p:{name}>{escape(str(value))}</p:{name}>"


def embedded(name: str, class_name: str, **properties: tuple[str, object]) -> str:
    """A parameter that is an instance as CIM-XML; properties as (type, value)."""
    inner = "".join(
        f'<PROPERTY NAME="{key}" TYPE="{kind}"><VALUE>{escape(str(value))}</VALUE></PROPERTY>'
        for key, (kind, value) in properties.items()
    )
    return text(name, f'<INSTANCE CLASSNAME="{class_name}">{inner}</INSTANCE>')


def _selectors(keys: dict[str, str]) -> SelectorSet:
    chosen = SelectorSet()
    for name, value in keys.items():
        chosen.add_option(name, value)
    return chosen


def _items(reply: ET.Element) -> list[dict[str, Any]]:
    holder = reply.find(f".//{{{WSMAN}}}Items")
    holder = reply.find(f".//{{{ENUMERATION}}}Items") if holder is None else holder
    return [] if holder is None else [_values(each) for each in holder]


def _is_over(reply: ET.Element) -> bool:
    ends = (reply.find(f".//{{{space}}}EndOfSequence") for space in (WSMAN, ENUMERATION))
    return any(each is not None for each in ends)


def _values(element: ET.Element) -> dict[str, Any]:
    """Properties by name: a text, a list of texts where repeated, the keys of a reference, or None."""
    found: dict[str, Any] = {}
    for child in element:
        name = re.sub(r"^\{.*\}", "", child.tag)
        value = _value(child)
        if name in found:
            before = found[name]
            found[name] = [*(before if isinstance(before, list) else [before]), value]
        else:
            found[name] = value
    return found


def _value(element: ET.Element) -> Any:
    if element.get(NIL) == "true":
        return None
    selectors = element.findall(f".//{{{WSMAN}}}Selector")
    if selectors:
        return {each.get("Name"): each.text for each in selectors}
    return element[0].text if len(element) else element.text or ""
