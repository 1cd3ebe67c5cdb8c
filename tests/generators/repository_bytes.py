"""Write small, valid repositories byte by byte from docs/format.md; an independent witness for its readers.

Nothing here is shared with the product or with tools/read_repository.py: bytes are laid out by hand, HKDF is
written out with hmac. Objects are built in memory (``objects``: name to bytes), so that a test can bend any
before ``write`` lays them into a directory. ``box``, ``pack`` and ``inventory`` are public for the same
reason: they make authentic objects with hostile content. Everything random comes from one seed.
"""

import hashlib
import hmac
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

PACK_OF_CHUNKS, PACK_OF_NODES = 1, 2
STORED, ZSTD = 0, 1
SPECIFICATION_KDF = {"name": "argon2id", "memory_kib": 65536, "iterations": 3, "lanes": 4}
CHEAP_KDF = {"name": "argon2id", "memory_kib": 64, "iterations": 1, "lanes": 1}


@dataclass(frozen=True)
class Content:
    """What a disk or file holds: pieces of bytes at offsets, else zeros; some ranges left out on purpose."""

    name: str
    size: int
    pieces: Mapping[int, bytes] = field(default_factory=dict)
    excluded: Sequence[tuple[int, int]] = ()
    source: str | None = None

    def read(self, offset: int, length: int) -> bytes:
        """Give bytes of the content as it was on the source, excluded ones included."""
        out = bytearray(min(length, self.size - offset))
        for start, piece in self.pieces.items():
            low, high = max(start, offset), min(start + len(piece), offset + len(out))
            if low < high:
                out[low - offset : high - offset] = piece[low - start : high - start]
        return bytes(out)

    def restored(self, chunk_size: int = 65536) -> bytes:
        """Give what a restore must yield: chunks that are excluded as a whole read as zeros."""
        chunks = range(-(-self.size // chunk_size))
        return b"".join(
            bytes(len(data)) if self.is_excluded(index, chunk_size) else data
            for index in chunks
            for data in [self.read(index * chunk_size, chunk_size)]
        )

    def is_excluded(self, chunk: int, chunk_size: int) -> bool:
        start, end = chunk * chunk_size, min((chunk + 1) * chunk_size, self.size)
        return any(offset <= start and end <= offset + length for offset, length in self.excluded)

    def touched(self, chunk_size: int) -> list[int]:
        """Give the chunks that may not be zeros."""
        ranges = [(offset, len(piece)) for offset, piece in self.pieces.items()] + list(self.excluded)
        chunks: set[int] = set()
        for offset, length in ranges:
            chunks.update(range(offset // chunk_size, (offset + length - 1) // chunk_size + 1))
        return sorted(chunks)


@dataclass(frozen=True)
class Frame:
    """One frame of a pack; ``claims`` puts other numbers into its slot than those that are true."""

    id: bytes
    plain: bytes
    codec: int = ZSTD
    claims: Mapping[str, int] = field(default_factory=dict)
    stored_as: bytes | None = None  # bytes to encrypt instead of what the codec makes of ``plain``


@dataclass(frozen=True)
class WrittenPoint:
    """Where a restore point went and what was in it."""

    id: str
    place: str  # <vm key>/<time>-<point id>
    vm: str
    number: int
    digest: str
    previous: Mapping[str, str] | None
    disks: tuple[Content, ...]
    files: tuple[Content, ...]
    packs: tuple[str, ...]
    inventory: str

    @property
    def manifest(self) -> str:
        return "points/" + self.place

    @property
    def seal(self) -> str:
        return "seals/" + self.place


class RepositoryBytes:
    """A repository in memory, written point by point."""

    def __init__(
        self,
        *,
        seed: int = 1,
        passwords: Iterable[str] = ("correct horse",),
        chunk_size: int = 65536,
        codec: int = ZSTD,
        frames_per_pack: int = 4096,
        kdf: Mapping[str, Any] = CHEAP_KDF,
    ) -> None:
        self._random = random.Random(seed)
        self.objects: dict[str, bytes] = {}
        self.chunk_size, self.codec, self.frames_per_pack = chunk_size, codec, frames_per_pack
        self.id, self.master = self._random.randbytes(16), self._random.randbytes(32)
        self.chunk_id_key = self.derive(self.id, b"vmkeep chunk id v1")
        self.node_id_key = self.derive(self.id, b"vmkeep node id v1")
        self._places: dict[bytes, str] = {}  # id -> pack
        self._relied: set[str] = set()  # packs of other runs in which this run found something
        self._heads: dict[str, WrittenPoint] = {}
        self._minutes = 0
        self._write_format()
        for password in passwords:
            self.add_key(password, kdf)

    # Section 3 and 4

    def _write_format(self) -> None:
        specification = (Path(__file__).parents[2] / "docs" / "format.md").read_bytes()
        self.objects["spec.md"] = specification
        self.parameters: dict[str, Any] = {
            "format": "vmkeep repository",
            "version": 1,
            "repository": self.id.hex(),
            "created": "2026-01-02T03:04:05Z",
            "chunk_size": self.chunk_size,
            "leaf_chunks": 64,
            "fanout": 1024,
            "pack_size": 67108864,
            "put_if_absent": True,
            "specification": {"name": "spec.md", "blake3": blake3(specification).hexdigest()},
            "generation": 1,
        }
        self.objects["format"] = json.dumps(self.parameters, indent=1).encode()

    def format_hash(self) -> bytes:
        hashed = {key: value for key, value in self.parameters.items() if key != "generation"}
        return blake3(canonical(hashed)).digest()

    def add_key(self, password: str, kdf: Mapping[str, Any] = CHEAP_KDF, kind: str = "password") -> str:
        """Wrap the master key with one more password and give the object's name."""
        key_id, salt, nonce = (self._random.randbytes(size) for size in (16, 16, 12))
        wrapping = Argon2id(
            salt=salt,
            length=32,
            iterations=kdf["iterations"],
            lanes=kdf["lanes"],
            memory_cost=kdf["memory_kib"],
        ).derive(password.encode("utf-8"))
        aad = b"vmkeep key v1" + self.id + self.format_hash() + key_id
        record = {
            "version": 1,
            "id": key_id.hex(),
            "kind": kind,
            "created": "2026-01-02T03:04:05Z",
            "kdf": {**kdf, "salt": salt.hex()},
            "format": self.format_hash().hex(),
            "nonce": nonce.hex(),
            "wrapped": AESGCM(wrapping).encrypt(nonce, self.master, aad).hex(),
        }
        self.objects[f"keys/{key_id.hex()}"] = key_object(record)
        return f"keys/{key_id.hex()}"

    # Section 5

    def derive(self, salt: bytes, info: bytes) -> bytes:
        """HKDF-SHA256 of RFC 5869 for one block of output."""
        extracted = hmac.new(salt, self.master, hashlib.sha256).digest()
        return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()

    def chunk_id(self, data: bytes) -> bytes:
        return blake3(data, key=self.chunk_id_key).digest()

    def node_id(self, data: bytes) -> bytes:
        return blake3(data, key=self.node_id_key).digest()

    def vm_key(self, vm_id: str) -> str:
        name_key = self.derive(self.id, b"vmkeep vm name v1")
        return blake3(vm_id.encode("utf-8"), key=name_key).hexdigest()[:32]

    # Section 6

    def pack(self, kind: int, frames: Sequence[Frame], pack_id: bytes | None = None) -> str:
        """Write one pack and give its name."""
        pack_id = pack_id or self._random.randbytes(16)
        cipher = AESGCM(self.derive(pack_id, b"vmkeep pack v1"))
        out = bytearray(b"VMKPACK1" + pack_id + bytes([kind]) + bytes(7))
        table = bytearray()
        for slot, frame in enumerate(frames):
            content = frame.plain if frame.codec != ZSTD else zstandard.compress(frame.plain, 1)
            content = content if frame.stored_as is None else frame.stored_as
            aad = self.id + pack_id + little(slot, 8) + bytes([kind]) + frame.id
            sealed = cipher.encrypt(slot.to_bytes(12, "big"), content, aad)
            true = {
                "offset": len(out),
                "stored": len(sealed),
                "plain": len(frame.plain),
                "codec": frame.codec,
            }
            says = {**true, **frame.claims}
            table += frame.id + little(says["offset"], 4) + little(says["stored"], 4)
            table += little(says["plain"], 4) + bytes([says["codec"]]) + bytes(3)
            out += sealed
        aad = self.id + pack_id + little(2**32, 8) + bytes([kind]) + bytes(32)
        trailer = cipher.encrypt((2**32).to_bytes(12, "big"), bytes(table), aad)
        out += trailer + little(len(trailer), 4) + little(len(frames), 4) + bytes(16)
        prefix = {PACK_OF_CHUNKS: "packs", PACK_OF_NODES: "maps"}[kind]
        name = f"{prefix}/{pack_id.hex()[:2]}/{pack_id.hex()}"
        self.objects[name] = with_checksum(bytes(out))
        return name

    def _packs(self, kind: int, frames: Sequence[Frame]) -> list[str]:
        names = []
        for at in range(0, len(frames), self.frames_per_pack):
            some = frames[at : at + self.frames_per_pack]
            names.append(self.pack(kind, some))
            self._places.update((frame.id, names[-1]) for frame in some)
        return names

    # Section 7

    def map(self, content: Content, chunks: list[Frame], nodes: list[Frame]) -> bytes | None:
        """Give the root id of a content's map; append the chunks and nodes that are not stored yet."""
        level_children: dict[int, tuple[int, bytes]] = {}
        for index in content.touched(self.chunk_size):
            data = content.read(index * self.chunk_size, self.chunk_size)
            if content.is_excluded(index, self.chunk_size):
                level_children[index] = (2, b"")
            elif any(data):
                level_children[index] = (1, self._store(chunks, self.chunk_id(data), data))
        leaves = -(-content.size // (64 * self.chunk_size))
        level, top = 0, 1
        while 1024**top < leaves:
            top += 1
        while level <= top:
            fanout = 64 if level == 0 else 1024
            parents: dict[int, tuple[int, bytes]] = {}
            for parent in sorted({index // fanout for index in level_children}):
                children = [level_children.get(parent * fanout + child, (0, b"")) for child in range(fanout)]
                node = node_bytes(level, children)
                parents[parent] = (1, self._store(nodes, self.node_id(node), node))
            level_children, level = parents, level + 1
        return level_children[0][1] if level_children else None

    def _store(self, frames: list[Frame], item: bytes, data: bytes) -> bytes:
        if item in self._places:
            self._relied.add(self._places[item])
        elif all(item != frame.id for frame in frames):
            frames.append(Frame(item, data, self.codec))
        return item

    # Sections 8 and 9

    def box(
        self,
        name: str,
        plain: bytes | Mapping[str, Any],
        codec: int | None = None,
        magic: bytes = b"VMKBOX01",
    ) -> str:
        """Write a box under a name and give the name."""
        data = plain if isinstance(plain, bytes) else json.dumps(plain, ensure_ascii=False).encode("utf-8")
        codec = self.codec if codec is None else codec
        head, salt = magic + bytes([codec]) + bytes(7), self._random.randbytes(16)
        content = zstandard.compress(data, 3) if codec == ZSTD else data
        return self.raw_box(name, head, salt, content)

    def raw_box(self, name: str, head: bytes, salt: bytes, content: bytes) -> str:
        """Write a box whose content is already coded."""
        sealed = AESGCM(self.derive(salt, b"vmkeep box v1")).encrypt(
            bytes(12), content, self.id + head + name.encode()
        )
        self.objects[name] = with_box_checksum(head + salt + sealed)
        return name

    def add_point(
        self,
        *,
        vm: tuple[str, str] = ("6f1d3f6e-0f6b-4d0e-9d63-2c1f0e6b8a11", "server"),
        disks: Sequence[Content] = (),
        files: Sequence[Content] = (),
        state: str | None = "sealed",
        manifest: Mapping[str, Any] | None = None,
        seal: Mapping[str, Any] | None = None,
    ) -> WrittenPoint:
        """Write a restore point as one run would; ``state`` None leaves it without a seal.

        ``manifest`` and ``seal`` replace single keys of these two objects.
        """
        self._minutes += 1
        time = f"2026-01-02T{self._minutes // 60:02}:{self._minutes % 60:02}:00Z"
        run, point = self._random.randbytes(16).hex(), self._random.randbytes(16).hex()
        place = f"{self.vm_key(vm[0])}/{time.replace('-', '').replace(':', '')}-{point}"
        chunks: list[Frame] = []
        nodes: list[Frame] = []
        self._relied = set()
        listed = {
            "disks": [self._entry(disk, chunks, nodes) for disk in disks],
            "files": [self._entry(file, chunks, nodes) for file in files],
        }
        packs = self._packs(PACK_OF_CHUNKS, chunks) + self._packs(PACK_OF_NODES, nodes)
        self.inventory(run, packs, relied=sorted(self._relied))
        head = self._heads.get(vm[0])
        record = {
            "version": 1,
            "point": point,
            "run": run,
            "vm": {"id": vm[0], "name": vm[1]},
            "number": head.number + 1 if head else 1,
            "previous": {"name": head.manifest, "digest": head.digest} if head else None,
            "parent": head.id if head else None,
            "time": time,
            "finished": time,
            "source": "folder:exported",
            "method": "folder",
            "consistency": {"asked": "preferred", "promised": "off", "got": "off", "reasons": []},
            "checkpoints": [],
            "evidence": {},
            "bytes_read": sum(disk.size for disk in disks),
            "bytes_stored": sum(len(self.objects[name]) for name in packs),
            "inventory": f"inventory/{run}",
            "program": "repository_bytes 1",
            "a key of a later version": {"ignored": True},
            **listed,
            **(manifest or {}),
        }
        name = self.box("points/" + place, record)
        digest = blake3(self.objects[name]).hexdigest()
        written = WrittenPoint(
            point,
            place,
            vm[0],
            record["number"],
            digest,
            record["previous"],
            tuple(disks),
            tuple(files),
            tuple(packs),
            f"inventory/{run}",
        )
        if state is not None:
            decision = {
                "version": 1,
                "state": state,
                "point": name,
                "digest": digest,
                "time": time,
                **(seal or {}),
            }
            self.box("seals/" + place, decision)
        if state == "sealed":
            self._heads[vm[0]] = written
        return written

    def _entry(self, content: Content, chunks: list[Frame], nodes: list[Frame]) -> dict[str, Any]:
        root = self.map(content, chunks, nodes)
        return {
            "name": content.name,
            "size": content.size,
            "root": root.hex() if root else None,
            "role": "configuration",
            "format": "vhdx",
            "kind": "dynamic",
            "logical_sector": 512,
            "physical_sector": 4096,
            "block_size": 33554432,
            "disk_id": None,
            "source": content.source or content.name + ".vhdx",
            "excluded": [[offset, length, "page file"] for offset, length in content.excluded],
        }

    def forget(self, point: WrittenPoint, *, tombstone: bool = True) -> None:
        """Drop a point; without a tombstone it is as if somebody had deleted it."""
        if tombstone:
            self.tombstone(point)
        del self.objects[point.seal], self.objects[point.manifest]

    def tombstone(self, point: WrittenPoint, /, **replaced: Any) -> str:
        """Write the tombstone of a point; ``replaced`` bends single keys."""
        record = {
            "version": 1,
            "point": point.manifest,
            "vm": point.vm,
            "number": point.number,
            "digest": point.digest,
            "previous": point.previous,
            "time": "2026-02-01T00:00:00Z",
            "why": "retention",
        }
        return self.box("forgotten/" + point.place, {**record, **replaced})

    # Section 10

    def inventory(
        self, run: str, packs: Sequence[str], *, relied: Sequence[str] = (), deleted: Sequence[str] = ()
    ) -> str:
        """Write an inventory that lists packs with their true sizes and checksums."""
        text = f"vmkeep inventory 1 {self.id.hex()} inventory/{run}\n"
        for name in packs:
            text += f"+ {name} {len(self.objects[name])} {self.objects[name][-40:-8].hex()}\n"
        text += "".join(f"= {name}\n" for name in relied)
        text += "".join(f"- {name}\n" for name in deleted)
        self.objects[f"inventory/{run}"] = self.with_mac(text)
        return f"inventory/{run}"

    def with_mac(self, text: str) -> bytes:
        """Finish an inventory with its last two lines."""
        mac = blake3(text.encode(), key=self.derive(self.id, b"vmkeep inventory v1")).hexdigest()
        return with_sum(text + f"mac {mac}\n")

    # Section 11

    def journal(self, point: WrittenPoint, *, steps: Sequence[str] = ("begun", "finished")) -> list[str]:
        """Write the records of the run that made a point; the last one promises the point."""
        run = point.inventory.removeprefix("inventory/")
        names = []
        for number, step in enumerate(steps):
            record = {
                "version": 1,
                "run": run,
                "vm": {"id": point.vm, "name": "server"},
                "number": number,
                "time": f"2026-01-02T10:00:{number:02}Z",
                "step": step,
                "lease": "2026-01-02T10:10:00Z",
                "owner": {"host": "keeper", "boot": "1", "namespace": "1", "pid": 7, "start": "1"},
                "detail": {"outcome": "sealed", "point": point.manifest} if step == "finished" else {},
            }
            vm_key = point.place.split("/")[0]
            names.append(self.box(f"runs/{vm_key}/{run}/{number:06}", record))
        return names

    # Section 2

    def write(self, directory: Path) -> Path:
        """Lay all objects into a directory, one file each."""
        for name, data in self.objects.items():
            path = directory.joinpath(*name.split("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return directory


def canonical(record: Mapping[str, Any]) -> bytes:
    """Write canonical JSON."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def key_object(record: Mapping[str, Any]) -> bytes:
    """Write a key object with its checksum made right."""
    rest = {key: value for key, value in record.items() if key != "checksum"}
    return json.dumps({**rest, "checksum": blake3(canonical(rest)).hexdigest()}).encode()


def little(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def with_checksum(pack_without_last_40: bytes) -> bytes:
    """Finish a pack, or one that was bent on purpose, with the checksum anybody can compute."""
    return pack_without_last_40 + blake3(pack_without_last_40).digest() + b"VMKEND01"


def with_box_checksum(box: bytes) -> bytes:
    """Finish a box, or one that was bent on purpose, with the checksum anybody can compute."""
    return box + blake3(box).digest()


def with_sum(text: str) -> bytes:
    """Finish an inventory with its last line, which ends like the others."""
    return (text + f"sum {blake3(text.encode()).hexdigest()}\n").encode()


def node_bytes(level: int, children: Sequence[tuple[int, bytes]]) -> bytes:
    """Lay out one node of a map from the state and id of each child."""
    states = bytearray(len(children) // 4)
    for child, (state, _) in enumerate(children):
        states[child // 4] |= state << (child % 4 * 2)
    ids = [item for state, item in children if state == 1]
    head = bytes([level, 0]) + little(len(children), 2) + little(len(ids), 4)
    return head + bytes(states) + b"".join(ids)
