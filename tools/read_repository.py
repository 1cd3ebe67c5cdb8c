#!/usr/bin/env python3
"""Read a vmkeep repository without vmkeep: this file, a password, and the page `spec.md` of the repository.

Written from that page (docs/format.md, version 1) alone and laid out in its order; "section 6" points into
it. Reads a repository in a local directory, writes nothing there and never looks at `index/`: where a chunk
lies is learned from the packs. Needs Python 3.11 or later and the packages blake3, cryptography, zstandard.

    read_repository.py REPO list                                     restore points, one JSON object a line
    read_repository.py REPO restore POINT --disk NAME|N --to FILE|-  one disk as a raw image; N counts from 0
    read_repository.py REPO restore-files POINT --to DIR             configuration and memory files
    read_repository.py REPO check                                    every point, node and chunk; the history
    read_repository.py REPO scrub                                    without password: rot and loss

POINT is an id or the beginning of one. The password comes from VMKEEP_PASSWORD or --password-file (one line
end at its end is dropped). Results go to standard output, problems and notes to standard error, one line each
with the object's name first. Exit code 0: fine; 1: a problem was found; 2: wrong usage.
"Assumed" marks what the page leaves open.
"""

import argparse
import json
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from zstandard import CONTENTSIZE_UNKNOWN, ZstdDecompressor, ZstdError, get_frame_parameters

SMALL, LARGE = 65536, 256 << 20  # bytes of `format` (section 3) and of a box (section 8)
T = TypeVar("T")
MAX_DISK = 1 << 50  # assumed: the page sets no bound; a VHDX ends at 64 TiB
COUNT = range(1, 1 << 53)  # assumed: the integers on which all JSON readers agree


class RefusedError(Exception):
    """Name an object that must not be used, and say why."""


def require(truth: object, name: str, why: str) -> None:
    """Refuse the object of this name unless something is true of it."""
    if not truth:
        raise RefusedError(f"{name}: {why}")


class Report:
    """Tell what is wrong, and count it."""

    problems = 0

    def problem(self, error: object) -> None:
        self.problems += 1
        print(f"problem: {error}", file=sys.stderr)

    def note(self, fact: str) -> None:
        print(f"note: {fact}", file=sys.stderr)

    def attempt(self, call: Callable[..., T], *arguments: Any) -> T | None:
        """Call; what is refused becomes a problem, so that one bad object does not hide the next."""
        try:
            return call(*arguments)
        except RefusedError as error:
            self.problem(error)
            return None


# Section 2: objects ---------------------------------------------------------------------------------------

ID, PLACE = "[0-9a-f]{32}", "[0-9a-f]{32}/[0-9]{8}T[0-9]{6}Z-[0-9a-f]{32}"
PACK = re.compile(r"(packs|maps)/([0-9a-f]{2})/(\2[0-9a-f]{30})")
BOX = re.compile(
    rf"(points|seals|forgotten)/{PLACE}|(tracking|evidence)/{PLACE}/{ID}"
    rf"|runs/{ID}/{ID}/[0-9]{{6}}|(sessions|condemned|index)/{ID}"
)
OTHER = re.compile(rf"format|spec\.md|(keys|inventory)/{ID}|(probe|tmp)/.*")


def beside(name: str, prefix: str) -> str:
    """Give the name of the object of another kind that belongs to the same restore point."""
    return prefix + name[name.index("/") :]


class Store:
    """Give the names and bytes of the objects in a directory; a name is a path in there."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    def names(self, prefix: str = "") -> list[str]:
        walk = os.walk(self.root / prefix)
        return sorted(
            (Path(at) / file).relative_to(self.root).as_posix() for at, _, files in walk for file in files
        )

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


def canonical(record: dict[str, Any], without: str) -> bytes:
    """Write the one form of a JSON object that is hashed, without one of its keys."""
    rest = {key: value for key, value in record.items() if key != without}
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


# Section 3: format ----------------------------------------------------------------------------------------


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
    digest = blake3(canonical(record, without="generation")).digest()
    return Format(take(name, record, "repository", 16), chunk_size, specification, digest)


# Section 4: keys ------------------------------------------------------------------------------------------


def read_key(store: Store, name: str) -> dict[str, Any]:
    """Read a key object and see that it is undamaged; needs no password."""
    record = parse_json(name, store.read_all(name, SMALL))  # assumed bound
    checksum = blake3(canonical(record, without="checksum")).digest()
    require(take(name, record, "checksum", 32) == checksum, name, "is damaged: its checksum differs")
    take(name, record, "version", range(1, 2))
    require(name == "keys/" + take(name, record, "id", 16).hex(), name, "has another id than its name")
    return record


def unwrap(name: str, record: dict[str, Any], form: Format, password: bytes) -> bytes | None:
    """Give the master key, or None when this is not the key object's password."""
    matches = take(name, record, "format", 32) == form.digest
    require(matches, name, "names another format hash: `format` or this key was altered")
    kdf = take(name, record, "kdf", dict)
    require(kdf.get("name") == "argon2id", name, "uses an unknown key derivation")
    lanes = take(name, kdf, "lanes", range(1, 17))
    iterations = take(name, kdf, "iterations", range(1, 11))
    memory = take(name, kdf, "memory_kib", range(8 * lanes, 1048577))  # the least of RFC 9106
    salt = take(name, kdf, "salt", 16)
    nonce, wrapped = take(name, record, "nonce", 12), take(name, record, "wrapped", 48)
    aad = b"vmkeep key v1" + form.repository + form.digest + bytes.fromhex(record["id"])
    derivation = Argon2id(salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory)
    try:
        return AESGCM(derivation.derive(password)).decrypt(nonce, wrapped, aad)
    except InvalidTag:
        return None


def unlock(store: Store, form: Format, password: bytes, report: Report) -> bytes:
    """Find the key object that this password opens; a bad one does not hide a good one."""
    for name in store.names("keys"):
        record = report.attempt(read_key, store, name)
        if record and (master := report.attempt(unwrap, name, record, form, password)):
            return master
    raise RefusedError("keys/: wrong password, no key object can be opened with it")


# Section 6: packs, as far as they can be read without a key -----------------------------------------------

CHUNK, NODE = 1, 2  # kind of a pack


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
    cipher: Any = None


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
    match, size = PACK.fullmatch(name), store.size(name)
    require(match and size >= 32 + 16 + 64, name, "has no name of a pack, or is too short for one")
    magic, pack_id, kind, zeros = struct.unpack("<8s16sB7s", store.read(name, 0, 32))
    require(magic == b"VMKPACK1" and not any(zeros), name, "has no pack header")
    require(name.endswith("/" + pack_id.hex()), name, f"is pack {pack_id.hex()} under a wrong name")
    require(
        kind == (CHUNK if name.startswith("packs/") else NODE), name, "is of the other kind than its prefix"
    )
    length, count, zeros, checksum, magic = struct.unpack("<II16s32s8s", store.read(name, size - 64, 64))
    require(magic == b"VMKEND01" and not any(zeros), name, "has no pack footer: cut or overwritten")
    possible = count <= 1_000_000 and length == count * 48 + 16 and length <= size - 32 - 64
    require(possible, name, f"its footer claims {count} slots in {length} bytes, which cannot be")
    return Pack(name, pack_id, kind, size, count, size - 64 - length, checksum)


def decode(name: str, codec: int, data: bytes, limit: int) -> bytes:
    """Undo the codec; never make more than ``limit`` bytes, whatever the zstd frame claims."""
    try:
        if codec == 1:
            claimed = get_frame_parameters(data).content_size
            fits = claimed == CONTENTSIZE_UNKNOWN or claimed <= limit
            require(fits, name, f"claims to become {claimed} bytes, it may be {limit}")
            data = ZstdDecompressor().decompress(data, max_output_size=limit, allow_extra_data=False)
    except ZstdError as error:
        raise RefusedError(f"{name}: does not become at most {limit} bytes: {error}") from error
    require(len(data) <= limit and codec < 2, name, f"is longer than {limit} bytes, or of an unknown codec")
    return data


# Section 7: one node of a map -----------------------------------------------------------------------------

ZEROS, STORED, EXCLUDED, REFUSED, LOST = range(5)  # states; LOST is ours: stored, but cannot be read


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
    require(any(states), name, "has no stored or excluded child, so should not be stored")
    stored = states.count(STORED)
    good = struct.unpack_from("<I", data, 4) == (stored,) and len(data) == first + 32 * stored
    require(good, name, "has another number of ids than of stored children")
    ids = (data[at : at + 32] for at in range(first, len(data), 32))
    return [(state, next(ids) if state == STORED else b"") for state in states]


# Section 8: what a manifest lists -------------------------------------------------------------------------


class Image(NamedTuple):
    """A disk, or a file that is mapped like one."""

    name: str
    size: int
    root: bytes | None
    excluded: list[tuple[int, int]]  # from, to; ascending, not touching

    def excludes(self, extent: Extent) -> bool:
        """Tell whether the manifest lists each byte of an extent as left out on purpose."""
        end = extent.offset + extent.length
        return any(start <= extent.offset and end <= stop for start, stop in self.excluded)


@dataclass
class Point:
    """A restore point, as its manifest describes it."""

    name: str
    digest: bytes
    record: dict[str, Any]
    vm: tuple[str, str]
    number: int
    images: dict[str, list[Image]] = field(default_factory=dict)


def parse_image(name: str, record: Any) -> Image:
    """Read one entry of `disks` or `files`."""
    size = take(name, record, "size", range(MAX_DISK + 1))
    root = None if record.get("root", 0) is None else take(name, record, "root", 32)
    entries, excluded = take(name, {"excluded": []} | record, "excluded", list), list[tuple[int, int]]()
    for entry in entries:
        good = isinstance(entry, list) and [type(value) for value in entry] == [int, int, str]
        require(good and 0 <= entry[0] < entry[0] + entry[1] <= size, name, "excludes an impossible range")
    for start, length, _ in sorted(entries):
        end = start + length
        if excluded and start <= excluded[-1][1]:
            start, end = excluded[-1][0], max(end, excluded.pop()[1])
        excluded.append((start, end))
    return Image(take(name, record, "name", str), size, root, excluded)


def is_safe(path: str) -> bool:
    """Tell whether a path stays in its folder and means the same on each system; the rule is assumed."""
    bad = r'|.*[\x00-\x1f\x7f\\:*?"<>|].*|.*[. ]|(con|prn|aux|nul|(com|lpt)[0-9])(\..*)?'
    return not any(re.fullmatch(bad, one, re.I | re.S) or len(one.encode()) > 255 for one in path.split("/"))


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
        pack.cipher = AESGCM(self.key("pack", salt=pack.id))
        aad = self.form.repository + pack.id + struct.pack("<QB", 1 << 32, 0) + bytes(32)
        try:
            table = pack.cipher.decrypt((1 << 32).to_bytes(12, "big"), sealed, aad)
        except InvalidTag:
            raise RefusedError(f"{name}: its trailer is not authentic") from None
        slots: list[Slot] = []
        end, limit = 32, self.form.chunk_size if pack.kind == CHUNK else 65536
        for *fields, zeros in struct.iter_unpack("<32sIIIB3s", table):
            slot = Slot(pack, len(slots), *fields)
            # Assumed: a frame is at most twice as long as its limit, which no compression exceeds.
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
        try:
            plain = pack.cipher.decrypt(slot.number.to_bytes(12, "big"), sealed, aad)
        except InvalidTag:
            raise RefusedError(f"{name}: is not authentic") from None
        plain = decode(name, slot.codec, plain, slot.plain)
        require(len(plain) == slot.plain, name, "has another length than promised")
        found = blake3(plain, key=self.id_keys[pack.kind]).digest()
        require(found == slot.id, name, "has another content than its id promises")
        return plain

    def fetch(self, kind: int, item: bytes, length: int | None = None) -> bytes:
        """Give a chunk or node from the first of its copies that is good."""
        why = []
        for slot in self.places.get((kind, item), []):
            try:
                data = self.open_frame(slot)
                require(
                    length in (None, len(data)), slot.pack.name, f"slot {slot.number} is too long or short"
                )
                return data
            except RefusedError as error:
                why.append(str(error))
        raise RefusedError(
            f"{'chunk' if kind == CHUNK else 'node'} {item.hex()}: {'; '.join(why) or 'is missing'}"
        )

    def extents(self, image: Image) -> Iterator[Extent]:
        """Walk a map in order and without gaps, section 7. What cannot be read comes as LOST."""
        leaves, level = -(-image.size // (64 * self.form.chunk_size)), 1
        while leaves > 1024**level:
            level += 1
        if image.root:
            yield from self.children(image.size, image.root, level, 0)
        elif image.size:
            yield Extent(0, image.size, ZEROS)

    def children(self, size: int, node: bytes, level: int, start: int) -> Iterator[Extent]:
        """Walk one node. Assumed: a leaf is 64 chunks of any size, "4 MiB" is that of the default."""
        span, name = self.form.chunk_size * (64 * 1024 ** (level - 1) if level else 1), f"node {node.hex()}"
        try:
            found = parse_node(name, self.fetch(NODE, node), level)
            require(
                not any(state for state, _ in found[-(-(size - start) // span) :]), name, "exceeds the disk"
            )
        except RefusedError as error:
            reach = min((1024 if level else 64) * span, size - start)
            yield Extent(start, reach, LOST, node, str(error))
            return
        for offset, (state, item) in zip(range(start, size, span), found, strict=False):
            if state == STORED and level:
                yield from self.children(size, item, level - 1, offset)
            else:
                yield Extent(offset, min(span, size - offset), state, item)

    def open_box(self, name: str) -> tuple[dict[str, Any], bytes]:
        """Open a box, section 8, and give what it says and its digest. It opens under its own name only."""
        data = self.store.read_all(name, LARGE + (LARGE >> 7))
        good = len(data) >= 48 and data[:8] == b"VMKBOX01" and data[8] < 2 and not any(data[9:16])
        require(good and BOX.fullmatch(name), name, "is not a box, or has no name of one")
        cipher = AESGCM(self.key("box", salt=data[16:32]))
        try:
            plain = cipher.decrypt(bytes(12), data[32:], self.form.repository + data[:16] + name.encode())
        except InvalidTag:
            raise RefusedError(f"{name}: is not authentic: altered, or moved here from elsewhere") from None
        record = parse_json(name, decode(name, data[8], plain, LARGE))
        take(name, record, "version", COUNT)
        return record, blake3(data).digest()

    def read_manifest(self, name: str) -> Point:
        """Read a manifest; assumed: it must agree with the name it is stored under."""
        record, digest = self.open_box(name)
        vm, _ = take(name, record, "vm", dict), take(name, record, "version", range(1, 2))
        vm_id, number = take(name, vm, "id", str), take(name, record, "number", COUNT)
        vm_key = blake3(vm_id.encode(), key=self.key("vm name")).digest()[:16].hex()
        good = name.startswith(f"points/{vm_key}/") and name.endswith(
            "-" + take(name, record, "point", 16).hex()
        )
        require(good, name, "is the manifest of another VM or point")
        take(name, record, "time", str)
        if record.get("previous") is not None:
            previous = take(name, record, "previous", dict)
            take(name, previous, "digest", 32)
            good = take(name, previous, "name", str).startswith(f"points/{vm_key}/")
            require(good, name, "follows a point of another VM")
        point = Point(name, digest, record, (vm_id, take(name, vm, "name", str)), number)
        for key in ("disks", "files"):
            point.images[key] = [parse_image(name, entry) for entry in take(name, record, key, list)]
        return point

    def read_seal(self, name: str) -> Point | None:
        """Give the point that a seal makes exist, section 9, or None when it is void."""
        seal, _ = self.open_box(name)
        good = seal["version"] == 1 and seal.get("point") == beside(name, "points")
        require(good and seal.get("state") in ("sealed", "void"), name, "is not a seal of its point")
        if seal["state"] == "void":
            return None
        point, digest = self.read_manifest(seal["point"]), take(name, seal, "digest", 32)
        require(digest == point.digest, point.name, "is not the manifest that was sealed")
        return point

    def read_points(self) -> list[Point]:
        """Give the points that exist; what should make one exist and does not verify is reported."""
        found = [self.report.attempt(self.read_seal, name) for name in self.store.names("seals")]
        return sorted(filter(None, found), key=lambda point: (point.vm, point.number, point.name))


# Sections 6, 9 and 10: what must be there -----------------------------------------------------------------


def read_inventory(store: Store, name: str, repository: bytes, key: bytes | None) -> list[list[str]]:
    """Give the lines of an inventory, split; with the inventory key its mac is checked too."""
    lines = store.read_all(name, LARGE).removesuffix(b"\n").split(b"\n")  # assumed bound
    require(len(lines) > 2, name, "is too short")
    *lines, mac, checksum = lines
    before_mac = b"".join(line + b"\n" for line in lines)
    found = blake3(before_mac + mac + b"\n").hexdigest().encode()
    require(checksum == b"sum " + found, name, "is damaged: its sum differs")
    right = key is None or mac == b"mac " + blake3(before_mac, key=key).hexdigest().encode()
    require(right, name, "is not authentic: its mac differs")
    first = f"vmkeep inventory 1 {repository.hex()}".encode()
    require(lines[0] == first, name, "is not an inventory of this repository")
    form = rf"\+ {PACK.pattern} [0-9]{{1,12}} [0-9a-f]{{64}}|- (?:packs|maps)/[0-9a-f]{{2}}/{ID}".encode()
    require(all(re.fullmatch(form, line) for line in lines[1:]), name, "has a line of unknown form")
    return [line.decode().split(" ") for line in lines[1:]]


def scrub_pack(store: Store, name: str, listed: list[str]) -> None:
    """Compare the bytes of a pack with its footer, and size and checksum with the inventory."""
    pack, left, digest = read_ends(store, name), store.size(name) - 40, blake3()
    for offset in range(0, left, 1 << 20):
        digest.update(store.read(name, offset, min(1 << 20, left - offset)))
    require(digest.digest() == pack.checksum, name, "is damaged: its checksum differs")
    require(
        listed in ([], [str(pack.size), pack.checksum.hex()]), name, "is not the pack its inventory lists"
    )


def scrub(store: Store, report: Report, inventory_key: bytes | None = None) -> None:
    """Report rot and loss, as far as it can be seen without a password."""
    form = read_format(store)
    text = report.attempt(store.read_all, "spec.md", LARGE)
    if text is not None and blake3(text).digest() != form.specification:
        report.problem("spec.md: is not the text that `format` names")
    for name in store.names("keys"):
        report.attempt(read_key, store, name)
    listed: dict[str, list[str]] = {}
    deleted = set()
    for name in store.names("inventory"):
        for sign, pack, *facts in (
            report.attempt(read_inventory, store, name, form.repository, inventory_key) or []
        ):
            if sign == "-":
                deleted.add(pack)
            elif listed.setdefault(pack, facts) != facts:
                report.problem(f"{name}: lists {pack} in another way than another inventory")
    present = store.names("packs") + store.names("maps")
    for name in present:
        report.attempt(scrub_pack, store, name, listed.get(name, []))
        if name not in listed:
            report.note(f"{name}: is in no inventory: of a run that goes on or did not finish")
    for name in sorted(listed.keys() - deleted - set(present)):
        report.problem(f"{name}: is missing, and no inventory says that it was deleted")
    for name in store.names():
        if not (PACK.fullmatch(name) or BOX.fullmatch(name) or OTHER.fullmatch(name)):
            report.note(f"{name}: is no object of a repository")


def check_history(points: list[Point], tombstones: dict[str, dict[str, Any]], report: Report) -> None:
    """Report each point that vanished without a tombstone, section 9."""
    history = {name: (tombstone["digest"], tombstone["number"]) for name, tombstone in tombstones.items()}
    history |= {point.name: (point.digest.hex(), point.number) for point in points}
    for point in points:
        if previous := point.record.get("previous"):
            if previous["name"] not in history:
                report.problem(f"{previous['name']}: vanished, without a tombstone; {point.name} follows it")
            elif history[previous["name"]] != (previous["digest"], point.number - 1):
                report.problem(f"{point.name}: follows another {previous['name']} than the one here")
        elif point.number != 1:
            report.problem(f"{point.name}: is number {point.number} but follows no point")
    for vm in sorted({name.split("/")[1] for name in history}):
        numbers = sorted(number for name, (_, number) in history.items() if name.split("/")[1] == vm)
        for before, after in zip([0, *numbers], numbers, strict=False):
            if after != before + 1:
                what = (
                    f"two points have number {after}"
                    if after == before
                    else f"{before + 1} to {after - 1} missing"
                )
                report.problem(f"points/{vm}: numbers are not without gap: {what}")


def check_image(
    repo: Repository, where: str, image: Image, lengths: dict[bytes, int], report: Report
) -> None:
    """Report what of a disk or file cannot be read back."""
    shown = 0
    for extent in repo.extents(image):
        why = extent.why
        if extent.state == STORED and lengths.get(extent.id) != extent.length:
            why = f"chunk {extent.id.hex()}: is missing, damaged or of another length"
        elif extent.state == EXCLUDED and not image.excludes(extent):
            why = "marked as excluded, which the manifest does not list"
        if why and (shown := shown + 1) <= 5:
            report.problem(f"{where}: bytes {extent.offset} to {extent.offset + extent.length}: {why}")
    if shown > 5:
        report.problem(f"{where}: {shown - 5} more of these")


def check(repo: Repository, report: Report) -> None:
    """Read everything: each frame, each map, the history, every box."""
    store, lengths, tombstones = repo.store, {}, {}
    scrub(store, report, repo.key("inventory"))
    for slot in repo.read_trailers():
        data = report.attempt(repo.open_frame, slot)
        if data is not None and slot.pack.kind == CHUNK:
            lengths[slot.id] = len(data)
    points = repo.read_points()
    for name in sorted(
        set(store.names("points")) - {beside(name, "points") for name in store.names("seals")}
    ):
        report.note(f"{name}: has no seal: of a run that goes on or did not finish")
    for prefix in ("forgotten", "tracking", "evidence", "runs", "sessions", "condemned"):
        for name in store.names(prefix):
            if (box := report.attempt(repo.open_box, name)) and prefix == "forgotten":
                tombstones[name] = box[0]
    graves = (report.attempt(read_tombstone, name, record) for name, record in tombstones.items())
    check_history(points, {grave["point"]: grave for grave in graves if grave}, report)
    for point in points:
        inventory = point.record.get("inventory")
        if inventory not in store.names("inventory"):
            report.problem(f"{point.name}: its inventory {inventory!r} is missing")
        for key, images in point.images.items():
            for index, image in enumerate(images):
                where = f"{point.name}: {key}[{index}] {image.name!r}"
                if not is_safe(image.name) or (key == "disks" and "/" in image.name):
                    report.problem(f"{where}: is not a safe name")
                if [other.name for other in images].count(image.name) > 1:
                    report.problem(f"{where}: is not the only one of this name")
                check_image(repo, where, image, lengths, report)
    print(f"{len(points)} restore points, {len(lengths)} different chunks, {report.problems} problems")


def read_tombstone(name: str, record: dict[str, Any]) -> dict[str, Any]:
    """See that a tombstone is that of the point it is named after."""
    good = record["version"] == 1 and record.get("point") == beside(name, "points")
    require(good, name, "is not the tombstone of its point")
    take(name, record, "digest", 32)
    take(name, record, "number", COUNT)
    return record


# Commands -------------------------------------------------------------------------------------------------


def write_image(repo: Repository, where: str, image: Image, out: BinaryIO, sparse: bool) -> None:
    """Write a disk or file; zeros become holes where the target can have them."""
    for extent in repo.extents(image):
        require(
            extent.state != LOST,
            where,
            f"{image.name!r} cannot be read from {extent.offset} on: {extent.why}",
        )
        if extent.state == STORED:
            out.write(repo.fetch(CHUNK, extent.id, extent.length))
        elif sparse:
            out.seek(extent.length, os.SEEK_CUR)
        else:
            for at in range(0, extent.length, 1 << 20):
                out.write(bytes(min(1 << 20, extent.length - at)))
    if sparse:
        out.truncate(image.size)


def write_file(repo: Repository, where: str, image: Image, target: Path) -> None:
    """Write a file that has its name only when it is complete; an existing one is kept."""
    partial = target.with_name(target.name + ".partial")
    require(not target.exists(), str(target), "exists already")
    with partial.open("xb") as out:
        write_image(repo, where, image, out, sparse=True)
    partial.rename(target)


def restore(repo: Repository, point: Point, disk: str, to: str) -> None:
    """Restore one disk, by name or else by its place in the manifest."""
    disks = point.images["disks"]
    found = [image for image in disks if image.name == disk]
    if not found and disk.isdecimal() and int(disk) < len(disks):
        found = [disks[int(disk)]]
    require(
        len(found) == 1, point.name, f"has no disk {disk!r}, or two; it has {[image.name for image in disks]}"
    )
    if to == "-":
        write_image(repo, point.name, found[0], sys.stdout.buffer, sparse=False)
    else:
        write_file(repo, point.name, found[0], Path(to))


def restore_files(repo: Repository, point: Point, to: str, report: Report) -> None:
    """Restore all files whose names are safe, into a folder in which nothing can lead elsewhere."""
    folder = Path(to)
    folder.mkdir(parents=True, exist_ok=True)
    require(not any(folder.iterdir()), to, "is not an empty folder")
    for image in point.images["files"]:
        if not is_safe(image.name):
            report.problem(f"{point.name}: the file name {image.name!r} is not safe, not restored")
            continue
        (folder / image.name).parent.mkdir(parents=True, exist_ok=True)
        report.attempt(write_file, repo, point.name, image, folder / image.name)


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
        return check(repo, report)
    points = repo.read_points()
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
    return restore_files(repo, found[0], args.to, report)


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
