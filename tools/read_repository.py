#!/usr/bin/env python3
"""Read a vmkeep repository without vmkeep: this file, a password, and the page `spec.md` of the repository.

Written from that page (docs/format.md, version 1) alone and laid out in its order; "section 6" points into
it. Reads a repository in a local directory, writes nothing there and never relies on `index/`: where a chunk
lies is learned from the packs. Needs Python 3.11 or later and the packages blake3, cryptography, zstandard.

    read_repository.py REPO list                                     restore points, one JSON object a line
    read_repository.py REPO restore POINT --disk NAME|N --to FILE|-  one disk as a raw image; N counts from 0
    read_repository.py REPO restore-files POINT --to DIR             configuration and memory files
    read_repository.py REPO check                                    every point, node and chunk; the history
    read_repository.py REPO scrub                                    without password: rot and loss

POINT is an id or the beginning of one. The password comes from VMKEEP_PASSWORD or --password-file (one line
end at its end is dropped). Results go to standard output, problems and notes to standard error, one line each
with the object's name first. Exit code 0: fine; 1: a problem; 2: wrong usage. "Assumed" marks what the page
leaves open.
"""

import argparse
import json
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from zstandard import ZstdDecompressor, ZstdError, get_frame_parameters

SMALL, LARGE = 65536, 256 << 20  # bytes of `format` and a key (sections 3, 4) and of what is in a box (8)
T = TypeVar("T")
COUNT = range(1, 1 << 53)  # assumed: the integers on which all JSON readers agree


class RefusedError(Exception):
    """Name an object that must not be used, and say why."""


def require(truth: object, name: str, why: str) -> None:
    """Refuse the object of this name unless something is true of it."""
    if not truth:
        raise RefusedError(f"{name}: {why}")


class Report:
    """Tell what is wrong, each thing once."""

    def __init__(self) -> None:
        self.problems: set[str] = set()

    def problem(self, error: object) -> None:
        """Say what must not be; it decides the exit code."""
        if str(error) not in self.problems:
            self.problems.add(str(error))
            self.say(f"problem: {error}")

    def say(self, text: str) -> None:
        # A name found in the store must not be able to break a line or to steer a terminal.
        print("".join(one if one.isprintable() else ascii(one)[1:-1] for one in text), file=sys.stderr)

    def attempt(self, call: Callable[..., T], *arguments: Any) -> T | None:
        """Call; what is refused becomes a problem, so that one bad object does not hide the next."""
        try:
            return call(*arguments)
        except RefusedError as error:
            self.problem(error)
            return None


# Sections 2 to 4: objects, format and keys ----------------------------------------------------------------

ID, PLACE = "[0-9a-f]{32}", "[0-9a-f]{32}/[0-9]{8}T[0-9]{6}Z-[0-9a-f]{32}"
PACK = re.compile(r"(packs|maps)/([0-9a-f]{2})/(\2[0-9a-f]{30})")
BOX = re.compile(
    rf"(points|seals|forgotten)/{PLACE}|(tracking|evidence)/{PLACE}/{ID}"
    rf"|runs/{ID}/{ID}/[0-9]{{6}}|(sessions|condemned|index)/{ID}"
)
NAME = re.compile(r"(?!\.\.?(/|\Z))[^/\\\0]+(/(?!\.\.?(/|\Z))[^/\\\0]+)*")  # of a file or disk, section 8
OTHER = re.compile(rf"format|spec\.md|keys/{ID}|inventory/{ID}(\.[1-9][0-9]*)?|(probe|tmp)/.*")


def beside(name: str, prefix: str) -> str:
    """Give the name of the object of another kind that belongs to the same restore point."""
    return prefix + name[name.index("/") :]


class Store:
    """Give the names and bytes of the objects in a directory; a name is a path in there."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    def names(self, prefix: str = "") -> list[str]:
        walk = os.walk(self.root / prefix)
        paths = ((Path(at) / file).relative_to(self.root) for at, _, files in walk for file in files)
        # What starts with a dot is no object, but the file system's or a program's own.
        return sorted(path.as_posix() for path in paths if not re.search(r"(^|/)\.", path.as_posix()))

    def size(self, name: str) -> int:
        require((self.root / name).is_file(), name, "is missing")
        return (self.root / name).stat().st_size

    def read(self, name: str, offset: int, length: int) -> bytes:
        try:
            with (self.root / name).open("rb") as file:
                file.seek(offset)
                data = file.read(length)
        except OSError as error:
            raise RefusedError(f"{name}: cannot be read: {error.strerror}") from error
        require(len(data) == length, name, f"ends before byte {offset + length}")
        return data

    def read_all(self, name: str, limit: int) -> bytes:
        size = self.size(name)
        require(size <= limit, name, f"has {size} bytes, it may have {limit}")
        return self.read(name, 0, size)


def parse_json(name: str, data: bytes) -> dict[str, Any]:
    """Read a JSON object. What two readers may understand differently is refused (assumed)."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        require(len(dict(pairs)) == len(pairs), name, "has a JSON key twice")
        return dict(pairs)

    try:
        value = json.loads(data.decode(), object_pairs_hook=once)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair has no UTF-8
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"{name}: is not JSON: {error}") from error
    require(isinstance(value, dict), name, "is not a JSON object")
    return dict(value)


def canonical(name: str, record: dict[str, Any], without: str) -> bytes:
    """Write the one form of a JSON object that is hashed, without one of its keys."""

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(plain(item) for pair in value.items() for item in pair)
        return value.isascii() if isinstance(value, str) else value is None or isinstance(value, int)

    rest = {key: value for key, value in record.items() if key != without}
    require(plain(rest), name, "is hashed, but holds more than ASCII, integers, booleans, null and objects")
    return json.dumps(rest, sort_keys=True, separators=(",", ":")).encode("ascii")


def take(name: str, record: Any, key: str, shape: Any) -> Any:
    """Take one value: a ``range`` wants an integer in it, a number so many bytes in hex, else a type."""
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(shape, range):
        require(type(value) is int and value in shape, name, f"`{key}` is not from {shape[0]} to {shape[-1]}")
    elif isinstance(shape, int):
        fits = isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{2 * shape}}}", value)
        require(fits, name, f"`{key}` is not {shape} bytes in lower case hex")
        value = bytes.fromhex(str(value))
    else:
        require(isinstance(value, shape), name, f"`{key}` is missing or of another type")
    return value


class Format(NamedTuple):
    """The parameters; trusted once a key object, whose seal covers the digest, was opened."""

    repository: bytes
    chunk_size: int
    specification: bytes
    digest: bytes


def read_format(store: Store) -> Format:
    """Read the object `format`."""
    name = "format"
    record = parse_json(name, store.read_all(name, SMALL))
    require(record.get("format") == "vmkeep repository", name, "is not that of a vmkeep repository")
    require(take(name, record, "version", COUNT) == 1, name, "has a version above 1, unknown to this reader")
    chunk_size = take(name, record, "chunk_size", range(16384, 1048577))
    require(chunk_size & (chunk_size - 1) == 0, name, "`chunk_size` is not a power of two")
    take(name, record, "leaf_chunks", range(64, 65))
    take(name, record, "fanout", range(1024, 1025))
    specification = take(name, take(name, record, "specification", dict), "blake3", 32)
    digest = blake3(canonical(name, record, without="generation")).digest()
    return Format(take(name, record, "repository", 16), chunk_size, specification, digest)


def read_key(store: Store, name: str) -> dict[str, Any]:
    """Read a key object and see that it is undamaged; needs no password."""
    record = parse_json(name, store.read_all(name, SMALL))
    checksum = blake3(canonical(name, record, without="checksum")).digest()
    require(take(name, record, "checksum", 32) == checksum, name, "is damaged: its checksum differs")
    take(name, record, "version", range(1, 2))
    require(name == "keys/" + take(name, record, "id", 16).hex(), name, "has another id than its name")
    return record


def unwrap(name: str, record: dict[str, Any], form: Format, password: bytes) -> bytes | None:
    """Give the master key, or None when this is not the key object's password."""
    altered = take(name, record, "format", 32) != form.digest
    require(not altered, name, "names another format hash: `format` or this key was altered")
    kdf = take(name, record, "kdf", dict)
    require(kdf.get("name") == "argon2id", name, "uses an unknown key derivation")
    lanes, rounds = take(name, kdf, "lanes", range(1, 17)), take(name, kdf, "iterations", range(1, 11))
    memory = take(name, kdf, "memory_kib", range(8 * lanes, 1048577))  # the least of RFC 9106
    salt = take(name, kdf, "salt", 16)
    nonce, wrapped = take(name, record, "nonce", 12), take(name, record, "wrapped", 48)
    aad = b"vmkeep key v1" + form.repository + form.digest + bytes.fromhex(record["id"])
    derivation = Argon2id(salt=salt, length=32, iterations=rounds, lanes=lanes, memory_cost=memory)
    try:
        return AESGCM(derivation.derive(password)).decrypt(nonce, wrapped, aad)
    except InvalidTag:
        return None


def unlock(store: Store, form: Format, password: bytes, report: Report) -> bytes:
    """Find the key object that this password opens; a bad one does not hide a good one."""
    for name in store.names("keys")[:64]:
        record = report.attempt(read_key, store, name)
        if record and (master := report.attempt(unwrap, name, record, form, password)):
            return master
    raise RefusedError("keys/: wrong password, no key object can be opened with it")


# Sections 6 to 8: packs, boxes, nodes and lists, as far as they can be read without a key ------------------

CHUNK, NODE = 1, 2  # kind of a pack
ZEROS, STORED, EXCLUDED, REFUSED, LOST = range(5)  # states; LOST is ours: stored, but cannot be read


@dataclass
class Pack:
    """What header and footer of a pack say."""

    name: str
    id: bytes
    kind: int
    size: int
    slots: int
    trailer: int  # offset
    checksum: bytes
    key: bytes = b""


class Slot(NamedTuple):
    """Where a frame lies and what it must become."""

    pack: Pack
    number: int
    id: bytes
    offset: int
    stored: int
    plain: int
    codec: int


def read_ends(store: Store, name: str) -> Pack:
    """Read header and footer; no number is believed that the object's size does not bear out."""
    size = store.size(name)
    good = PACK.fullmatch(name) and 32 + 16 + 64 <= size < 1 << 32
    require(good, name, "has no name of a pack, or is too short or long for one")
    magic, pack_id, kind, zeros = struct.unpack("<8s16sB7s", store.read(name, 0, 32))
    require(magic == b"VMKPACK1" and not any(zeros), name, "has no pack header")
    require(name.endswith("/" + pack_id.hex()), name, f"is pack {pack_id.hex()} under a wrong name")
    require({CHUNK: "p", NODE: "m"}.get(kind) == name[0], name, "is of the other kind than its prefix")
    length, count, zeros, checksum, magic = struct.unpack("<II16s32s8s", store.read(name, size - 64, 64))
    require(magic == b"VMKEND01" and not any(zeros), name, "has no pack footer: cut or overwritten")
    possible = count <= 1_000_000 and length == count * 48 + 16 and length <= size - 32 - 64
    require(possible, name, f"its footer claims {count} slots in {length} bytes, which cannot be")
    return Pack(name, pack_id, kind, size, count, size - 64 - length, checksum)


def read_box(store: Store, name: str) -> bytes:
    """Read a box and see that it is undamaged; needs no password."""
    box = store.read_all(name, LARGE + (LARGE >> 7))  # assumed: what zstd may add to content that resists it
    good = len(box) >= 32 + 16 + 32 and box[:8] == b"VMKBOX01" and box[8] < 2 and not any(box[9:16])
    require(good and BOX.fullmatch(name), name, "is not a box, or has no name of one")
    require(blake3(box[:-32]).digest() == box[-32:], name, "is damaged: its checksum differs")
    return box


def decrypt(name: str, key: bytes, nonce: int, sealed: bytes, aad: bytes) -> bytes:
    """Open what AES-256-GCM sealed."""
    try:
        return AESGCM(key).decrypt(nonce.to_bytes(12, "big"), sealed, aad)
    except InvalidTag:
        raise RefusedError(f"{name}: is not authentic: altered, or moved here from elsewhere") from None


def decode(name: str, codec: int, data: bytes, lengths: range) -> bytes:
    """Undo the codec; what a zstd frame announces is checked before anything is made of it."""
    if codec == 1:
        try:
            head = get_frame_parameters(data)
            good = head.content_size in lengths and not head.dict_id
            require(
                good,
                name,
                f"announces {head.content_size} bytes, it may be {lengths[-1]}, or asks for a dictionary",
            )
            data = ZstdDecompressor().decompress(data, allow_extra_data=False)
        except ZstdError as error:
            raise RefusedError(f"{name}: is not one zstd frame: {error}") from error
    require(len(data) in lengths and codec < 2, name, "has another length than promised, or another codec")
    return data


class Extent(NamedTuple):
    """A piece of a disk: one stored chunk, or a run of bytes that are zeros, excluded or lost."""

    offset: int
    length: int
    state: int
    id: bytes = b""
    why: str = ""


def parse_node(name: str, data: bytes, level: int) -> list[tuple[int, bytes]]:
    """Give state and id of each child; what is not the one form of a node is refused."""
    fanout = 1024 if level else 64
    first = 8 + fanout // 4
    good = len(data) >= first and struct.unpack_from("<BBH", data) == (level, 0, fanout)
    require(good, name, f"is not a node of level {level}")
    states = [data[8 + child // 4] >> 2 * (child % 4) & 3 for child in range(fanout)]
    require(REFUSED not in states, name, "has a child in state 3")
    require(level == 0 or EXCLUDED not in states, name, "excludes a child above level 0")
    require(any(states), name, "has no stored or excluded child, so should not be stored")
    stored = states.count(STORED)
    good = struct.unpack_from("<I", data, 4) == (stored,) and len(data) == first + 32 * stored
    require(good, name, "has another number of ids than of stored children")
    ids = (data[at : at + 32] for at in range(first, len(data), 32))
    return [(state, next(ids) if state == STORED else b"") for state in states]


class Image(NamedTuple):
    """A disk, or a file that is mapped like one."""

    name: str
    size: int
    root: bytes | None
    excluded: list[tuple[int, int, str]]  # offset, length, reason

    def excludes(self, start: int, end: int) -> bool:
        """Tell whether these bytes lie in one range that the manifest lists as left out on purpose."""
        return any(offset <= start and end <= offset + length for offset, length, _ in self.excluded)


class Point(NamedTuple):
    """A restore point as its manifest describes it; of a forgotten one, its place in the history."""

    name: str
    record: dict[str, Any]
    vm_id: str
    number: int
    digest: bytes
    previous: tuple[str, bytes] | None
    images: dict[str, list[Image]]


def parse_image(name: str, record: Any) -> Image:
    """Read one entry of `disks` or `files`."""
    size = take(name, record, "size", range(1 << 63))
    root = None if record.get("root", 0) is None else take(name, record, "root", 32)
    excluded = take(name, {"excluded": []} | record, "excluded", list)
    for entry in excluded:
        good = isinstance(entry, list) and [type(value) for value in entry] == [int, int, str]
        require(good and 0 <= entry[0] < entry[0] + entry[1] <= size, name, "excludes an impossible range")
    return Image(take(name, record, "name", str), size, root, excluded)


def local_name(path: str, *, windows: bool) -> str:
    """Make a name safe for this system; on Windows some characters and words mean something else."""
    if not windows:
        return path
    path = re.sub(r'[\x00-\x1f:*?"<>|]|[. ](?=/|$)', "_", path)
    return re.sub(r"(^|/)(?=(con|prn|aux|nul|(com|lpt)[0-9])(\.|/|$))", r"\1_", path, flags=re.I)


# Sections 5 to 9: all that needs the master key -----------------------------------------------------------


class Repository:
    """A repository opened with its password."""

    def __init__(self, store: Store, password: bytes, report: Report) -> None:
        self.store, self.report, self.form = store, report, read_format(store)
        self.master = unlock(store, self.form, password, report)
        self.id_keys = {CHUNK: self.key("chunk id"), NODE: self.key("node id")}
        self.places: dict[tuple[int, bytes], list[Slot]] = {}  # all copies of (kind, id)

    def key(self, purpose: str, salt: bytes | None = None) -> bytes:
        """Derive a key, section 5."""
        info = f"vmkeep {purpose} v1".encode()
        return HKDF(SHA256(), 32, salt or self.form.repository, info).derive(self.master)

    def slots(self, pack: Pack) -> list[Slot]:
        """Open the slot table of a pack, section 6."""
        name, sealed = pack.name, self.store.read(pack.name, pack.trailer, pack.slots * 48 + 16)
        pack.key = self.key("pack", salt=pack.id)
        aad = self.form.repository + pack.id + struct.pack("<QB", 1 << 32, pack.kind) + bytes(32)
        table = decrypt(f"{name}: trailer", pack.key, 1 << 32, sealed, aad)
        slots: list[Slot] = []
        end, limit = 32, self.form.chunk_size if pack.kind == CHUNK else 65536
        for *fields, zeros in struct.iter_unpack("<32sIIIB3s", table):
            slot = Slot(pack, len(slots), *fields)  # assumed: no compression makes a frame twice as long
            good = slot.offset == end and 16 < slot.stored <= 2 * limit + 16 and not any(zeros)
            require(good, name, f"slot {slot.number} has an impossible place")
            good = 0 < slot.plain <= limit and slot.codec < 2
            require(good, name, f"slot {slot.number} has an impossible plain length or codec")
            slots.append(slot)
            end += slot.stored
        require(end == pack.trailer, name, "its frames do not end where its trailer begins")
        return slots

    def read_trailers(self) -> Iterator[Slot]:
        """Learn where everything lies; a pack that is refused is reported and left out."""
        for name in self.store.names("packs") + self.store.names("maps"):
            pack = self.report.attempt(read_ends, self.store, name)
            for slot in (pack and self.report.attempt(self.slots, pack)) or []:
                self.places.setdefault((slot.pack.kind, slot.id), []).append(slot)
                yield slot

    def open_frame(self, slot: Slot) -> bytes:
        """Give the bytes of one chunk or node: authentic, as long as promised, and worthy of their id."""
        pack, name = slot.pack, f"{slot.pack.name}: slot {slot.number}"
        sealed = self.store.read(pack.name, slot.offset, slot.stored)
        aad = self.form.repository + pack.id + struct.pack("<QB", slot.number, pack.kind) + slot.id
        plain = decrypt(name, pack.key, slot.number, sealed, aad)
        plain = decode(name, slot.codec, plain, range(slot.plain, slot.plain + 1))
        found = blake3(plain, key=self.id_keys[pack.kind]).digest()
        require(found == slot.id, name, "has another content than its id promises")
        return plain

    def fetch(self, kind: int, item: bytes) -> bytes:
        """Give a chunk or node from the first of its copies that is good."""
        why = []
        for slot in self.places.get((kind, item), []):
            try:
                return self.open_frame(slot)
            except RefusedError as error:
                why.append(str(error))
        what = "chunk" if kind == CHUNK else "node"
        raise RefusedError(f"{what} {item.hex()}: {'; '.join(why) or 'is missing'}")

    def extents(self, image: Image) -> Iterator[Extent]:
        """Walk a map in order and without gaps, section 7. What must not be used comes as LOST."""
        leaves, level = -(-image.size // (64 * self.form.chunk_size)), 1
        while leaves > 1024**level:
            level += 1
        if image.root:
            yield from self.children(image, image.root, level, 0)
        elif image.size:
            yield Extent(0, image.size, ZEROS)

    def children(self, image: Image, node: bytes, level: int, start: int) -> Iterator[Extent]:
        """Walk one node."""
        span, name = self.form.chunk_size * (64 * 1024 ** (level - 1) if level else 1), f"node {node.hex()}"
        try:
            found = parse_node(name, self.fetch(NODE, node), level)
            # The page speaks of stored children; an excluded one is in no disk's map either.
            beyond = found[-(-(image.size - start) // span) :]
            require(not any(state for state, _ in beyond), name, "exceeds the disk")
        except RefusedError as error:
            reach = min((1024 if level else 64) * span, image.size - start)
            yield Extent(start, reach, LOST, node, str(error))
            return
        for offset, (state, item) in zip(range(start, image.size, span), found, strict=False):
            end = min(offset + span, image.size)
            if state == STORED and level:
                yield from self.children(image, item, level - 1, offset)
            elif state == EXCLUDED and not image.excludes(offset, end):
                yield Extent(offset, end - offset, LOST, why="is excluded, which the manifest does not list")
            else:
                yield Extent(offset, end - offset, state, item)

    def open_box(self, name: str) -> tuple[dict[str, Any], bytes]:
        """Open a box, section 8, and give what it says and its digest. It opens under its own name only."""
        data = read_box(self.store, name)
        aad = self.form.repository + data[:16] + name.encode()
        plain = decrypt(name, self.key("box", salt=data[16:32]), 0, data[32:-32], aad)
        record = parse_json(name, decode(name, data[8], plain, range(1, LARGE + 1)))
        take(name, record, "version", range(1, 2))
        return record, blake3(data).digest()

    def read_point(self, name: str) -> Point:
        """Read a manifest or a tombstone, which must agree with the name it is stored under."""
        record, digest = self.open_box(name)
        prefix, vm_key, place = name.split("/")
        if prefix == "points":
            vm, time = take(name, record, "vm", dict), take(name, record, "time", str)
            right = place == f"{re.sub('[-:]|[.][0-9]+', '', time)}-{take(name, record, 'point', 16).hex()}"
            vm_id, _ = take(name, vm, "id", str), take(name, vm, "name", str)
            lists = {key: take(name, record, key, list) for key in ("disks", "files")}
            images = {key: [parse_image(name, entry) for entry in lists[key]] for key in lists}
        else:
            right, images = record.get("point") == f"points/{vm_key}/{place}", {}
            vm_id, digest = take(name, record, "vm", str), take(name, record, "digest", 32)
        key = blake3(vm_id.encode(), key=self.key("vm name")).digest()[:16].hex()
        require(right and key == vm_key, name, "is of another VM, point or time than its name says")
        number, before = take(name, record, "number", COUNT), None
        if record.get("previous", 0) is not None:
            previous = take(name, record, "previous", dict)
            before = take(name, previous, "name", str), take(name, previous, "digest", 32)
            require(before[0].startswith(f"points/{vm_key}/"), name, "follows a point of another VM")
        return Point(beside(name, "points"), record, vm_id, number, digest, before, images)

    def read_seal(self, name: str) -> Point | None:
        """Give the point that a seal makes exist, section 9, or None when it is void."""
        seal, _ = self.open_box(name)
        good = seal.get("point") == beside(name, "points") and seal.get("state") in ("sealed", "void")
        require(good, name, "is not a seal of its point")
        if seal["state"] == "void":
            return None
        point, digest = self.read_point(seal["point"]), take(name, seal, "digest", 32)
        require(digest == point.digest, point.name, "is not the manifest that was sealed")
        return point

    def read_points(self) -> tuple[list[Point], list[Point]]:
        """Give the points that exist and the forgotten ones; what does not verify is reported."""
        # Assumed: a tombstone that does not verify buries nothing, or junk could hide a point.
        graves = [self.report.attempt(self.read_point, name) for name in self.store.names("forgotten")]
        forgotten = {grave.name: grave for grave in graves if grave}
        seals = [name for name in self.store.names("seals") if beside(name, "points") not in forgotten]
        found = filter(None, [self.report.attempt(self.read_seal, name) for name in seals])
        points = sorted(found, key=lambda point: (point.vm_id, point.number, point.name))
        return points, list(forgotten.values())


# Sections 6, 9 and 10: what must be there -----------------------------------------------------------------


def read_inventory(store: Store, name: str, repository: bytes, key: bytes | None) -> list[list[str]]:
    """Give the lines of an inventory, split; with the inventory key its mac is checked too."""
    lines = store.read_all(name, LARGE).split(b"\n")  # assumed bound
    require(len(lines) > 3 and not lines[-1], name, "is too short, or does not end with a line end")
    *lines, mac, checksum, _ = lines
    before_mac = b"".join(line + b"\n" for line in lines)
    found = blake3(before_mac + mac + b"\n").hexdigest().encode()
    require(checksum == b"sum " + found, name, "is damaged: its sum differs")
    right = key is None or mac == b"mac " + blake3(before_mac, key=key).hexdigest().encode()
    require(right, name, "is not authentic: its mac differs")
    first = f"vmkeep inventory 1 {repository.hex()} {name}".encode()
    require(lines[0] == first, name, "is not this inventory of this repository")
    form = rf"\+ {PACK.pattern} [0-9]{{1,12}} [0-9a-f]{{64}}|[-=] (?:packs|maps)/[0-9a-f]{{2}}/{ID}".encode()
    require(all(re.fullmatch(form, line) for line in lines[1:]), name, "has a line of unknown form")
    return [line.decode().split(" ") for line in lines[1:]]


def scrub_pack(store: Store, name: str, listed: list[str]) -> None:
    """Compare the bytes of a pack with its footer, and size and checksum with the inventory."""
    pack, left, digest = read_ends(store, name), store.size(name) - 40, blake3()
    for offset in range(0, left, 1 << 20):
        digest.update(store.read(name, offset, min(1 << 20, left - offset)))
    require(digest.digest() == pack.checksum, name, "is damaged: its checksum differs")
    good = listed in ([], [str(pack.size), pack.checksum.hex()])
    require(good, name, "is not the pack its inventory lists")


def scrub_packs(store: Store, form: Format, report: Report, inventory_key: bytes | None) -> None:
    """Report packs that are damaged or missing."""
    listed: dict[str, list[str]] = {}
    deleted = set()
    for name in store.names("inventory"):
        lines = report.attempt(read_inventory, store, name, form.repository, inventory_key)
        for sign, pack, *facts in lines or []:
            if sign == "-":
                deleted.add(pack)
            elif facts and listed.get(pack, []) not in ([], facts):
                report.problem(f"{name}: lists {pack} in another way than another inventory")
            else:
                listed[pack] = facts or listed.get(pack, [])
    present = store.names("packs") + store.names("maps")
    for name in present:
        report.attempt(scrub_pack, store, name, listed.get(name, []))
        if name not in listed:
            report.say(f"note: {name}: is in no inventory: of a run that goes on or did not finish")
    for name in sorted(listed.keys() - deleted - set(present)):
        report.problem(f"{name}: is missing, and no inventory says that it was deleted")


def scrub(store: Store, report: Report, inventory_key: bytes | None = None) -> None:
    """Report rot and loss, as far as it can be seen without a password."""
    form, names = read_format(store), dict.fromkeys(store.names())
    text = report.attempt(store.read_all, "spec.md", LARGE)
    if text is not None and blake3(text).digest() != form.specification:
        report.problem("spec.md: is not the text that `format` names")
    if len(store.names("keys")) > 64:
        report.problem("keys/: has more than 64 objects")
    for name in store.names("keys"):
        report.attempt(read_key, store, name)
    scrub_packs(store, form, report, inventory_key)
    for name in names:
        if BOX.fullmatch(name):
            report.attempt(read_box, store, name)
        elif not (PACK.fullmatch(name) or OTHER.fullmatch(name)):
            report.say(f"note: {name}: is no object of a repository")
        if name.startswith("seals/") and beside(name, "points") not in names:
            report.problem(f"{beside(name, 'points')}: is missing, its seal is there")


def check_history(history: dict[str, Point], report: Report) -> None:
    """Report each point that vanished without a tombstone, and each that follows another than it says."""
    numbered: dict[tuple[str, int], str] = {}
    for name, point in history.items():
        if (other := numbered.setdefault((point.vm_id, point.number), name)) != name:
            report.problem(f"{name}: has the number {point.number}, as {other} has")
        if point.previous is None:
            if point.number != 1:
                report.problem(f"{name}: is number {point.number} but follows no point")
        elif not (before := history.get(point.previous[0])):
            report.problem(f"{point.previous[0]}: vanished, without a tombstone; {name} follows it")
        elif (before.number, before.digest) != (point.number - 1, point.previous[1]):
            report.problem(f"{name}: follows another {before.name} than the one here")


def check_runs(repo: Repository, history: dict[str, Point]) -> None:
    """Report each point that a finished run promises, section 11, and that is not known."""
    last = {name.rpartition("/")[0]: name for name in repo.store.names("runs")}
    for name in last.values():
        record, _ = repo.report.attempt(repo.open_box, name) or ({}, b"")
        detail = record.get("detail") if record.get("step") == "finished" else None
        promised = isinstance(detail, dict) and detail.get("outcome") == "sealed" and detail.get("point")
        if promised and str(promised) not in history:
            repo.report.problem(f"{promised}: does not exist, and {name} says that it was sealed")


def check_image(repo: Repository, where: str, image: Image, lengths: dict[bytes, int]) -> None:
    """Report what of a disk or file cannot be read back."""
    shown = 0
    for extent in repo.extents(image):
        why = extent.why
        if extent.state == STORED and lengths.get(extent.id) != extent.length:
            why = f"chunk {extent.id.hex()}: is missing, damaged or of another length"
        if why and (shown := shown + 1) <= 5:
            repo.report.problem(f"{where}: bytes {extent.offset} to {extent.offset + extent.length}: {why}")
    if shown > 5:
        repo.report.problem(f"{where}: {shown - 5} more of these")


def check_point(repo: Repository, point: Point, lengths: dict[bytes, int]) -> None:
    """Report what is wrong with one point."""
    inventory = point.record.get("inventory")
    if inventory not in repo.store.names("inventory"):
        repo.report.problem(f"{point.name}: its inventory {inventory!r} is missing")
    names = [image.name for images in point.images.values() for image in images]
    for key, images in point.images.items():
        for index, image in enumerate(images):
            where = f"{point.name}: {key}[{index}] {image.name!r}"
            if not NAME.fullmatch(image.name) or (key == "disks" and "/" in image.name):
                repo.report.problem(f"{where}: is not a name of the form that section 8 asks for")
            if names.count(image.name) > 1:
                repo.report.problem(f"{where}: is not the only one of this name")
            check_image(repo, where, image, lengths)


def check(repo: Repository) -> None:
    """Read everything: each frame, each map, the history, every box."""
    store, report, lengths = repo.store, repo.report, dict[bytes, int]()
    scrub(store, report, repo.key("inventory"))
    for slot in repo.read_trailers():
        data = report.attempt(repo.open_frame, slot)
        if data and slot.pack.kind == CHUNK:
            lengths[slot.id] = len(data)
            if data.count(0) == len(data):
                report.problem(f"{slot.pack.name}: slot {slot.number} is a chunk of zeros")
    points, forgotten = repo.read_points()
    for name in filter(BOX.fullmatch, store.names()):
        if not name.startswith("index/"):  # holds no JSON, and nothing relies on it
            report.attempt(repo.open_box, name)
    sealed = {beside(name, "points") for name in store.names("seals")}
    for name in sorted(set(store.names("points")) - sealed):
        report.say(f"note: {name}: has no seal: of a run that goes on or did not finish, or being forgotten")
    history = {point.name: point for point in points + forgotten}
    check_history(history, report)
    check_runs(repo, history)
    for point in points:
        check_point(repo, point, lengths)
    print(f"{len(points)} restore points, {len(lengths)} different chunks, {len(report.problems)} problems")


# Commands -------------------------------------------------------------------------------------------------


def write_image(repo: Repository, where: str, image: Image, out: BinaryIO, sparse: bool) -> None:
    """Write a disk or file; zeros become holes where the target can have them."""
    for extent in repo.extents(image):
        data = repo.fetch(CHUNK, extent.id) if extent.state == STORED else b""
        if extent.state == LOST or len(data) not in (0, extent.length):
            why = extent.why or f"chunk {extent.id.hex()}: is of another length"
            raise RefusedError(f"{where}: {image.name!r} cannot be read from {extent.offset} on: {why}")
        if data:
            out.write(data)
        elif sparse:
            out.seek(extent.length, os.SEEK_CUR)
        else:
            out.writelines(bytes(min(1 << 20, extent.length - at)) for at in range(0, extent.length, 1 << 20))
    if sparse:
        out.truncate(image.size)


def write_file(repo: Repository, where: str, image: Image, target: Path) -> None:
    """Write a file that has its name only when it is complete; an existing one is kept."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        require(not target.exists(), where, f"{str(target)!r} exists already")
        partial = target.with_name(".vmkeep-partial")
        with partial.open("xb") as out:
            write_image(repo, where, image, out, sparse=True)
        partial.rename(target)
    except OSError as error:
        raise RefusedError(f"{where}: {str(target)!r} cannot be written: {error.strerror}") from error


def restore(repo: Repository, point: Point, disk: str, to: str) -> None:
    """Restore one disk, by name or else by its place in the manifest."""
    disks = point.images["disks"]
    found = [image for image in disks if image.name == disk]
    found = found or [image for index, image in enumerate(disks) if str(index) == disk]
    require(len(found) == 1, point.name, f"has no disk {disk!r}, or two")
    if to == "-":
        write_image(repo, point.name, found[0], sys.stdout.buffer, sparse=False)
    else:
        write_file(repo, point.name, found[0], Path(to))


def restore_files(repo: Repository, point: Point, to: str) -> None:
    """Restore all files whose names are safe, into a folder in which nothing can lead elsewhere."""
    folder = Path(to)
    folder.mkdir(parents=True, exist_ok=True)
    require(not any(folder.iterdir()), to, "is not an empty folder")
    for image in point.images["files"]:
        if NAME.fullmatch(image.name):
            target = folder / local_name(image.name, windows=os.name == "nt")
            repo.report.attempt(write_file, repo, point.name, image, target)
        else:
            repo.report.problem(
                f"{point.name}: the file name {image.name!r} could lead elsewhere, not restored"
            )


def run(args: argparse.Namespace, report: Report) -> None:
    """Do what the command line asks."""
    store = Store(args.repository)
    if args.command == "scrub":
        return scrub(store, report)
    password = os.environ.get("VMKEEP_PASSWORD", "").encode()
    if args.password_file:
        password = re.sub(rb"\r?\n\Z", b"", Path(args.password_file).read_bytes())
    repo = Repository(store, password, report)
    if args.command == "check":
        return check(repo)
    points, _ = repo.read_points()
    if args.command == "list":
        for point in points:
            disks = [{"name": image.name, "size": image.size} for image in point.images["disks"]]
            line = {"id": point.record["point"], "vm": point.record["vm"], "time": point.record["time"]}
            print(json.dumps(line | {"number": point.number, "disks": disks}))
        return None
    found = [point for point in points if point.record["point"].startswith(args.point)]
    require(len(found) == 1, args.point, f"is the beginning of {len(found)} restore points")
    list(repo.read_trailers())
    if args.command == "restore":
        return restore(repo, found[0], args.disk, args.to)
    return restore_files(repo, found[0], args.to)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and give the exit code."""
    parser = argparse.ArgumentParser(description="Read a vmkeep repository without vmkeep.")
    parser.add_argument("--password-file")
    parser.add_argument("repository")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("list", "check", "scrub", "restore", "restore-files"):
        command = commands.add_parser(name)
        command.add_argument("--password-file", default=argparse.SUPPRESS)
        if name.startswith("restore"):
            command.add_argument("point")
            command.add_argument("--to", required=True)
        if name == "restore":
            command.add_argument("--disk", required=True)
    args, report = parser.parse_args(arguments), Report()
    if args.command != "scrub" and not (args.password_file or os.environ.get("VMKEEP_PASSWORD")):
        parser.error("set VMKEEP_PASSWORD or give --password-file")
    try:
        run(args, report)
    except (RefusedError, OSError) as error:
        report.problem(error)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
