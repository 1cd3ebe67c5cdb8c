"""The manifest of a restore point as JSON. `docs/format.md` section 8.

What is read back was authenticated, but may come from a careless or captured
writer: names that could leave a folder and sizes that make no sense are refused.
"""

import json
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from vmkeep.model.consistency import Consistency, Reason
from vmkeep.model.plan import VmRef
from vmkeep.model.point import Claim, RestorePoint, StoredDisk, StoredFile
from vmkeep.repository.errors import Tampered

_VERSION: Final = 1
_MAX_SIZE: Final = 1 << 63
_SECTOR_SIZES: Final = (512, 4096)
DEEPEST_NAME: Final = 64
"""Segments a file's name has at most."""


def encode_manifest(point: RestorePoint) -> bytes:
    """Return the manifest's JSON."""
    return json.dumps(manifest_fields(point)).encode()


def manifest_fields(point: RestorePoint) -> dict[str, Any]:
    """Return the manifest as the JSON object that is stored (and shown by `show --json`)."""
    claim = point.consistency
    return {
        "version": _VERSION,
        "point": point.id,
        "run": point.run,
        "vm": {"id": point.vm.id, "name": point.vm.name},
        "number": point.number,
        "previous": {"name": point.previous[0], "digest": point.previous[1].hex()}
        if point.previous
        else None,
        "parent": point.parent,
        "time": format_time(point.time),
        "finished": format_time(point.finished),
        "source": point.source,
        "method": point.method,
        "consistency": {
            "asked": claim.asked,
            "promised": claim.promised.value,
            "got": claim.got.value,
            "reasons": [
                {"code": r.code, "fact": r.fact, "effect": r.effect, "fix": r.fix} for r in claim.reasons
            ],
        },
        "disks": [_disk_fields(disk) for disk in point.disks],
        "files": [
            {"name": f.name, "role": f.role, "size": f.size, "root": f.root.hex() if f.root else None}
            for f in point.files
        ],
        "checkpoints": [],
        "evidence": dict(point.evidence),
        "bytes_read": point.bytes_read,
        "bytes_stored": point.bytes_stored,
        "inventory": point.inventory,
        "program": point.program,
    }


def _disk_fields(disk: StoredDisk) -> dict[str, Any]:
    return {
        "name": disk.name,
        "size": disk.size,
        "root": disk.root.hex() if disk.root else None,
        "format": disk.format,
        "kind": disk.kind,
        "logical_sector": disk.logical_sector,
        "physical_sector": disk.physical_sector,
        "block_size": disk.block_size,
        "disk_id": disk.disk_id,
        "source": disk.source,
        "excluded": [list(e) for e in disk.excluded],
    }


def decode_manifest(name: str, content: bytes) -> RestorePoint:
    """Read a manifest. Raises Tampered when it is not one of version 1 or names what it must not."""
    try:
        fields = json.loads(content)
        if fields["version"] != _VERSION:
            raise ValueError("unknown version")
        previous, claim = fields["previous"], fields["consistency"]
        point = RestorePoint(
            id=_text(fields["point"]),
            run=_text(fields["run"]),
            vm=VmRef(_vm_id(fields["vm"]["id"]), _text(fields["vm"]["name"])),
            number=_count(fields["number"]),
            previous=(_text(previous["name"]), bytes.fromhex(previous["digest"])) if previous else None,
            parent=None if fields["parent"] is None else _text(fields["parent"]),
            time=parse_time(fields["time"]),
            finished=parse_time(fields["finished"]),
            source=_text(fields["source"]),
            method=_text(fields["method"]),
            consistency=Claim(
                _text(claim["asked"]),
                Consistency(claim["promised"]),
                Consistency(claim["got"]),
                tuple(
                    Reason(_text(r["code"]), _text(r["fact"]), _text(r["effect"]), _text(r["fix"]))
                    for r in claim["reasons"]
                ),
            ),
            disks=tuple(_disk(disk) for disk in fields["disks"]),
            files=tuple(
                StoredFile(_relative(_text(f["name"])), _text(f["role"]), _count(f["size"]), _root(f["root"]))
                for f in fields["files"]
            ),
            bytes_read=_count(fields["bytes_read"]),
            bytes_stored=_count(fields["bytes_stored"]),
            inventory=_text(fields["inventory"]),
            program=_text(fields["program"]),
            evidence=dict(fields["evidence"]),
        )
        if len({disk.name for disk in point.disks}) != len(point.disks):
            raise ValueError("two disks of one name")
        if len({file.name for file in point.files}) != len(point.files):
            raise ValueError("two files of one name")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Tampered(f"the manifest {name} cannot be understood: {error}.", object=name) from error
    return point


def _disk(fields: dict[str, Any]) -> StoredDisk:
    block = fields["block_size"]
    name = _text(fields["name"])
    if "/" in _relative(name):
        raise ValueError("a disk name with a folder in it")
    size, logical, physical = (_count(fields[key]) for key in ("size", "logical_sector", "physical_sector"))
    if logical not in _SECTOR_SIZES or physical not in _SECTOR_SIZES:
        raise ValueError("a sector size no disk has")
    if size % logical:
        raise ValueError("a disk that ends within a sector")
    return StoredDisk(
        name=name,
        size=size,
        root=_root(fields["root"]),
        format=_text(fields["format"]),
        kind=_text(fields["kind"]),
        logical_sector=logical,
        physical_sector=physical,
        block_size=None if block is None else _count(block),
        disk_id=None if fields["disk_id"] is None else str(UUID(_text(fields["disk_id"]))),
        source=_text(fields["source"]),
        excluded=tuple((_count(o), _count(n), _text(why)) for o, n, why in fields["excluded"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a text that is none")
    return value


def _vm_id(value: object) -> str:
    _text(value).encode()  # UnicodeEncodeError for a lone surrogate, which JSON allows
    return _text(value)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < _MAX_SIZE:
        raise ValueError("a number that is none")
    return value


def _root(value: str | None) -> bytes | None:
    root = None if value is None else bytes.fromhex(value)
    if root is not None and len(root) != 32:
        raise ValueError("a root of wrong length")
    return root


def _relative(name: str) -> str:
    # Names that are merely odd (reserved on Windows, control characters) are
    # encoded when files are written; these would leave the folder.
    parts = name.split("/")
    if "\\" in name or "\0" in name or not all(part not in ("", ".", "..") for part in parts):
        raise ValueError("a file name that leaves its folder")
    if len(parts) > DEEPEST_NAME:
        raise ValueError(f"a file name of more than {DEEPEST_NAME} segments")
    return name


def format_time(moment: datetime) -> str:
    """Return RFC 3339 in UTC with a trailing Z, to the microsecond."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """Read a time written by :func:`format_time` (or any RFC 3339 with a zone)."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("a time outside the calendar") from error
