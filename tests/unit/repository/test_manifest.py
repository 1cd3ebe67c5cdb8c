"""A manifest says what was put into it; what a hostile writer put into it is refused."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from vmkeep.model.consistency import Consistency, Reason
from vmkeep.model.plan import VmRef
from vmkeep.model.point import Claim, RestorePoint, StoredDisk, StoredFile
from vmkeep.repository.errors import Tampered
from vmkeep.repository.manifest import decode_manifest, encode_manifest, format_time, parse_time

pytestmark = pytest.mark.quick

NAME = "points/aa/bb"
MOMENT = datetime(2026, 3, 29, 0, 30, 5, 123456, tzinfo=UTC)
HOSTILE_NAME = "r\r\n<script>[red]\x1b[31m\u202e.."
DISK_ID = "6f68302a-741c-704d-bf6c-4101d31a2e93"
POINT = RestorePoint(
    id="ab" * 16,
    run="cd" * 16,
    vm=VmRef("5a1f0c3e-0000-4000-8000-000000000001", HOSTILE_NAME),
    number=3,
    previous=("points/aa/old", b"\5" * 32),
    parent="ef" * 16,
    time=MOMENT,
    finished=MOMENT + timedelta(seconds=90),
    source="hyperv://host/vm",
    method="folder",
    consistency=Claim(
        "preferred", Consistency.FILESYSTEM, Consistency.CRASH, (Reason("C1", "fact", "effect", "fix"),)
    ),
    disks=(
        StoredDisk("a.vhdx", 1 << 40, b"\6" * 32, "vhdx", "dynamic", 512, 4096, 1 << 25, DISK_ID, "a.vhdx"),
        StoredDisk("b", 512, None, "raw", "fixed", 512, 512, None, None, "b", ((0, 4, "pagefile"),)),
    ),
    files=(StoredFile("Virtual Machines/x.vmcx", "configuration", 70, b"\7" * 32),),
    bytes_read=12,
    bytes_stored=0,
    inventory="inventory/" + "cd" * 16,
    program="vmkeep 0.1",
    evidence={"held_seconds": 1.5, "deep": {"list": [1, None]}},
)
FIELDS: dict[str, Any] = json.loads(encode_manifest(POINT))


def _decode(fields: object) -> RestorePoint:
    return decode_manifest(NAME, json.dumps(fields).encode())


def test_what_goes_in_comes_out() -> None:
    assert decode_manifest(NAME, encode_manifest(POINT)) == POINT


def test_first_point_round_trip() -> None:
    first = RestorePoint(**{**POINT.__dict__, "previous": None, "parent": None, "number": 1, "disks": ()})
    assert decode_manifest(NAME, encode_manifest(first)) == first


def test_every_key_of_the_specification_is_there() -> None:
    assert set(FIELDS) == {
        "version", "point", "run", "vm", "number", "previous", "parent", "time", "finished", "source",
        "method", "consistency", "disks", "files", "checkpoints", "evidence", "bytes_read", "bytes_stored",
        "inventory", "program",
    }  # fmt: skip
    assert set(FIELDS["disks"][0]) == {
        "name", "size", "root", "format", "kind", "logical_sector", "physical_sector", "block_size",
        "disk_id", "source", "excluded",
    }  # fmt: skip
    assert FIELDS["time"] == "2026-03-29T00:30:05.123456Z"
    assert FIELDS["disks"][1]["excluded"] == [[0, 4, "pagefile"]]
    assert FIELDS["disks"][0]["root"] == "06" * 32


def test_unknown_keys_are_ignored() -> None:
    later = json.loads(json.dumps(FIELDS)) | {"shiny": {"new": 1}}
    later["disks"][0]["cluster"] = True
    later["vm"]["generation"] = 2
    assert _decode(later) == POINT


@pytest.mark.parametrize("key", sorted(set(FIELDS) - {"checkpoints"}))
def test_missing_keys_are_refused(key: str) -> None:
    with pytest.raises(Tampered, match=NAME):
        _decode({k: v for k, v in FIELDS.items() if k != key})


BAD_NAMES = ["", ".", "..", "../x", "/x", "x/", "a//b", "a/../b", "a\\b", "..\\x", "a\0b", "./x"]


@pytest.mark.parametrize("name", [*BAD_NAMES, "folder/disk"])
def test_disk_name_that_leaves_its_folder_is_refused(name: str) -> None:
    fields = json.loads(json.dumps(FIELDS))
    fields["disks"][0]["name"] = name
    with pytest.raises(Tampered, match=NAME):
        _decode(fields)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_file_name_that_leaves_its_folder_is_refused(name: str) -> None:
    fields = json.loads(json.dumps(FIELDS))
    fields["files"][0]["name"] = name
    with pytest.raises(Tampered, match=NAME):
        _decode(fields)


@pytest.mark.parametrize("name", ["disk 0.vhdx", "\u202e", "...", "a..b", "CON", HOSTILE_NAME, "c:x"])
def test_names_that_are_merely_odd_are_kept(name: str) -> None:
    fields = json.loads(json.dumps(FIELDS))
    fields["disks"][0]["name"] = name
    assert _decode(fields).disks[0].name == name


def _disk(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields["disks"][0].update({key: value})


def _top(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields.update({key: value})


HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "newer": _top("version", 2),
    "negative size": _disk("size", -1),
    "size beyond 2^63": _disk("size", 1 << 63),
    "size as a float": _disk("size", 1.0),
    "size as a text": _disk("size", "5"),
    "size as a truth": _disk("size", True),
    "no size": _disk("size", None),
    "short root": _disk("root", "00" * 31),
    "root no hex": _disk("root", "zz" * 32),
    "root as a number": _disk("root", 5),
    "negative sector": _disk("logical_sector", -512),
    "size within a sector": _disk("size", (1 << 40) + 256),
    "size within a large sector": lambda fields: fields["disks"][0].update(size=512, logical_sector=4096),
    "logical sector of nothing": _disk("logical_sector", 0),
    "odd logical sector": _disk("logical_sector", 520),
    "odd physical sector": _disk("physical_sector", 1 << 40),
    "negative block": _disk("block_size", -1),
    "excluded before the disk": _disk("excluded", [[-1, 5, "x"]]),
    "excluded without a reason": _disk("excluded", [[1, 5]]),
    "disk name as a list": _disk("name", ["a"]),
    "two disks of one name": lambda fields: fields["disks"].append(fields["disks"][0]),
    "two files of one name": lambda fields: fields["files"].append(fields["files"][0]),
    "file below too many folders": lambda fields: fields["files"][0].update(name="x/" * 64 + "y"),
    "disks as a number": _top("disks", 5),
    "number below zero": _top("number", -1),
    "number as a text": _top("number", "1"),
    "time without zone": _top("time", "2026-03-29T00:30:05"),
    "no time": _top("time", "yesterday"),
    "time as a number": _top("time", 1774744205),
    "time that leaves the calendar": _top("time", "0001-01-01T00:00:00+14:00"),
    "time after the calendar": _top("finished", "9999-12-31T23:59:59-14:00"),
    "unknown consistency": lambda fields: fields["consistency"].update(got="perfect"),
    "previous without digest": _top("previous", {"name": "x"}),
    "previous as a text": _top("previous", "points/x"),
    "vm as a text": _top("vm", "web"),
    "vm id no text": _top("vm", {"id": 5, "name": "web"}),
    "vm id no UTF-8": _top("vm", {"id": "\ud800", "name": "web"}),
    "evidence as a number": _top("evidence", 5),
    "file of negative size": lambda fields: fields["files"][0].update(size=-1),
}


@pytest.mark.parametrize("what", list(HOSTILE))
def test_hostile_values_are_refused(what: str) -> None:
    fields = json.loads(json.dumps(FIELDS))
    HOSTILE[what](fields)
    with pytest.raises(Tampered, match=NAME) as caught:
        _decode(fields)
    assert caught.value.context["object"] == NAME


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"5", b"\xff", b"[" * 200_000, b"{}"])
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(Tampered, match=NAME):
        decode_manifest(NAME, content)


def test_times() -> None:
    assert format_time(datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))) == (
        "2026-01-02T01:04:05.000000Z"
    )
    for text in ("2026-01-02T03:04:05Z", "2026-01-02T05:04:05+02:00", "2026-01-02T03:04:05.000000Z"):
        parsed = parse_time(text)
        assert parsed == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert parsed.utcoffset() == timedelta(0)
    with pytest.raises(ValueError, match="zone"):
        parse_time("2026-01-02T03:04:05")
