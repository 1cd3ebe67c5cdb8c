"""Passwords, the master key they wrap, and every key derived from it. `docs/format.md` sections 4 and 5."""

import base64
import json
import math
import os
import re
from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vmkeep.errors import VmkeepError
from vmkeep.objectstore.errors import BadObjectName, ObjectMissing, StoreForbidden
from vmkeep.objectstore.store import ObjectInfo, Store
from vmkeep.repository.errors import KeyRefused, Tampered, Unreadable, WrongKey
from vmkeep.repository.fetching import fetch
from vmkeep.repository.parameters import Parameters, canonical
from vmkeep.secrets import Secret

PREFIX: Final = "keys/"
_VERSION: Final = 1
_MEMORY_KIB, _ITERATIONS, _LANES = 64 << 10, 3, 4
_MAX_MEMORY_KIB, _MAX_ITERATIONS, _MAX_LANES = 1 << 20, 10, 16
_MAX_BYTES: Final = 64 << 10
_MAX_KEYS: Final = 64  # each one tried costs time and memory
# What all derivations of one opening may cost, in KiB times passes: any single key may be tried in both
# its readings, or all 64 that vmkeep writes. A minute or two.
_MAX_COST: Final = 32 << 20


class KeyRing:
    """The keys of one opened repository; never printed, never stored unwrapped."""

    def __init__(self, master: bytes, repository: bytes) -> None:
        self._master = master
        self.repository = repository

    def __repr__(self) -> str:
        return "KeyRing('***')"

    def _derive(self, salt: bytes, info: bytes) -> bytes:
        return HKDF(SHA256(), length=32, salt=salt, info=info).derive(self._master)

    @cached_property
    def chunk_id_key(self) -> bytes:
        return self._derive(self.repository, b"vmkeep chunk id v1")

    @cached_property
    def node_id_key(self) -> bytes:
        return self._derive(self.repository, b"vmkeep node id v1")

    @cached_property
    def inventory_key(self) -> bytes:
        return self._derive(self.repository, b"vmkeep inventory v1")

    @cached_property
    def _vm_name_key(self) -> bytes:
        return self._derive(self.repository, b"vmkeep vm name v1")

    def vm_key(self, vm_id: str) -> str:
        """Return the path component that stands for a VM and reveals nothing about it."""
        return blake3(vm_id.encode(), key=self._vm_name_key).digest(16).hex()

    def pack_key(self, pack: bytes) -> bytes:
        return self._derive(pack, b"vmkeep pack v1")

    def box_key(self, salt: bytes) -> bytes:
        return self._derive(salt, b"vmkeep box v1")

    def index_copy_key(self, salt: bytes) -> bytes:
        """Return what authenticates one file of this machine; no part of the stored format."""
        return self._derive(salt, b"vmkeep index copy v1")

    def wrap(
        self, parameters: Parameters, password: Secret, kind: "KeyKind", created: str
    ) -> tuple[str, bytes]:
        """Return id and content of a new key object that opens with ``password``."""
        key_id, salt, nonce = os.urandom(16), os.urandom(16), os.urandom(12)
        wrapping = Argon2id(
            salt=salt, length=32, iterations=_ITERATIONS, lanes=_LANES, memory_cost=_MEMORY_KIB
        ).derive(password.reveal())
        associated = _associated(parameters, key_id)
        fields: dict[str, Any] = {
            "version": _VERSION,
            "id": key_id.hex(),
            "kind": kind,
            "created": created,
            "kdf": {
                "name": "argon2id",
                "memory_kib": _MEMORY_KIB,
                "iterations": _ITERATIONS,
                "lanes": _LANES,
                "salt": salt.hex(),
            },
            "format": parameters.digest().hex(),
            "nonce": nonce.hex(),
            "wrapped": AESGCM(wrapping).encrypt(nonce, self._master, associated).hex(),
        }
        fields["checksum"] = blake3(canonical(fields)).hexdigest()
        return key_id.hex(), (json.dumps(fields, indent=2) + "\n").encode()


KeyKind = Literal["password", "recovery"]


@dataclass(frozen=True)
class KeyInfo:
    """What a key object tells without its password."""

    id: str
    kind: str
    created: str


def new_master() -> bytes:
    """Return a fresh master key."""
    return os.urandom(32)


def new_recovery_key() -> Secret:
    """Make a password nobody has to invent: 160 random bits in groups that can be written down."""
    text = base64.b32encode(os.urandom(20)).decode()
    return Secret("-".join(text[i : i + 4] for i in range(0, len(text), 4)))


def _readings(password: Secret, kind: str) -> list[Secret]:
    """Return what may be meant: a recovery key was written down by hand, and is typed in an emergency."""
    if kind != "recovery":
        return [password]
    letters = [c for c in password.reveal().decode("utf-8", "replace").upper() if c not in "- \t"]
    text = "".join(letters).translate(str.maketrans("018", "OIB"))  # base32 has none of these digits
    grouped = "-".join(text[i : i + 4] for i in range(0, len(text), 4))
    return [password] if grouped.encode() == password.reveal() else [password, Secret(grouped)]


def unlock(
    store: Store, parameters: Parameters, password: Secret, first: Container[str] = ()
) -> tuple[KeyRing, str]:
    """Open the repository's keys with ``password``; return them and the id of the key that fits.

    Whoever can only add objects must neither lock us out nor keep this machine
    busy, so there is an end to number and total cost of the tries, and an order
    that puts what was planted last: the ids in ``first`` (they opened before),
    then keys that cost what vmkeep's own cost, then the others from the cheapest
    on; among equals the one the store has had longest, if it tells.

    Raises WrongKey when no key fits, KeyRefused when some were left untried for
    their number or cost, and Tampered, Unreadable or StoreForbidden when none fits but some
    could not be judged: damaged, of other parameters, not ours to read.
    """
    found = _read_keys(store, parameters)
    if not (found.usable or found.foreign or found.damaged or found.unread):
        raise Tampered(
            "the repository has no key object any more: without one nothing opens it.", object=PREFIX
        )
    untried: list[str] = []
    spent = 0
    for number, (_, fields) in enumerate(sorted(found.usable, key=partial(_turn, first))):
        readings = _readings(password, fields["kind"])
        spent += _cost(fields) * len(readings)
        if number >= _MAX_KEYS or spent > _MAX_COST:
            untried.append(PREFIX + fields["id"])
            continue
        try:
            masters = (_unwrap(fields, parameters, text) for text in readings)
            master = next((found for found in masters if found is not None), None)
        except MemoryError:
            untried.append(PREFIX + fields["id"])
            continue
        if master is not None:
            return KeyRing(master, parameters.repository), fields["id"]
    if untried:
        raise KeyRefused(
            "no key that was tried fits, and some were left untried, because together they ask for "
            f"unreasonable time or memory: {', '.join(untried[:3])}{', …' if len(untried) > 3 else ''}.",
            hint="Check the password. If it is right, somebody has planted keys: in the storage itself, with "
            "its own tools, delete the objects `keys/ID` that nobody made (it may tell when each came).",
            object=untried[0],
        )
    if found.unread:
        raise found.unread[0]
    if found.foreign:
        raise Tampered(
            f"`format` or {', '.join(found.foreign)} was altered: they do not belong together.",
            object=found.foreign[0],
        )
    if found.damaged:
        raise Tampered(f"no key fits, and {', '.join(found.damaged)} is damaged.", object=found.damaged[0])
    raise WrongKey("the password is wrong.")


_Usable: TypeAlias = tuple[ObjectInfo, dict[str, Any]]


class _Found(NamedTuple):
    """The key objects a password may open, the names of foreign and damaged ones, and what was not read."""

    usable: list[_Usable]
    foreign: list[str]
    damaged: list[str]
    unread: list[StoreForbidden | Unreadable]


def _read_keys(store: Store, parameters: Parameters) -> _Found:
    found = _Found([], [], [], [])
    for info in store.list(PREFIX):
        # Another key may still be good, and whoever can only add objects must not lock us out.
        try:
            fields = _read(info.name, fetch(store, info, _MAX_BYTES))
        except ObjectMissing:
            continue  # removed just now
        except (StoreForbidden, Unreadable) as error:
            found.unread.append(error)
            continue
        except (Tampered, KeyRefused, BadObjectName):
            found.damaged.append(info.name)
            continue
        if fields["format"] == parameters.digest().hex():
            found.usable.append((info, fields))
        else:
            found.foreign.append(info.name)
    return found


def _turn(first: Container[str], key: _Usable) -> tuple[bool, bool, int, float]:
    """Return what the tries are ordered by. No time the object tells: whoever plants one chooses it."""
    info, fields = key
    kdf = fields["kdf"]
    ours = (kdf["memory_kib"], kdf["iterations"], kdf["lanes"]) == (_MEMORY_KIB, _ITERATIONS, _LANES)
    since = info.modified.timestamp() if info.modified is not None else math.inf
    return fields["id"] not in first, not ours, _cost(fields), since


def _cost(fields: dict[str, Any]) -> int:
    return int(fields["kdf"]["memory_kib"]) * int(fields["kdf"]["iterations"])


def key_infos(store: Store) -> tuple[list[KeyInfo], list[VmkeepError]]:
    """List the repository's keys, and what is wrong with the others; no password is needed."""
    found: list[KeyInfo] = []
    problems: list[VmkeepError] = []
    for info in store.list(PREFIX):
        try:
            fields = _read(info.name, fetch(store, info, _MAX_BYTES))
            found.append(KeyInfo(fields["id"], fields["kind"], fields["created"]))
        except ObjectMissing:
            continue  # removed just now
        except (Tampered, KeyRefused, BadObjectName, StoreForbidden) as error:
            problems.append(error)
    return found, problems


def _read(name: str, stored: bytes) -> dict[str, Any]:
    try:
        if len(stored) > _MAX_BYTES:
            raise ValueError("too long")
        fields = json.loads(stored)
        checksum = fields.pop("checksum")
        kdf = fields["kdf"]
        # Every field is looked at here: who reads one later must not stumble over what somebody planted.
        intact = (
            blake3(canonical(fields)).hexdigest() == checksum
            and type(fields["version"]) is int
            and fields["version"] == _VERSION
            and _is_hex(fields["id"], 16)
            and name == PREFIX + fields["id"]
            and fields["kind"] in get_args(KeyKind)
            and type(fields["created"]) is str
            and kdf["name"] == "argon2id"
            and all(type(kdf[k]) is int and kdf[k] > 0 for k in ("memory_kib", "iterations", "lanes"))
            and _is_hex(kdf["salt"], 16)
            and _is_hex(fields["format"], 32)
            and _is_hex(fields["nonce"], 12)
            and _is_hex(fields["wrapped"], 48)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Tampered(f"the key object {name} is damaged.", object=name) from error
    if not intact:
        raise Tampered(f"the key object {name} is damaged.", object=name)
    if (
        kdf["memory_kib"] > _MAX_MEMORY_KIB
        or kdf["iterations"] > _MAX_ITERATIONS
        or kdf["lanes"] > _MAX_LANES
        or kdf["memory_kib"] < 8 * kdf["lanes"]
    ):
        # Costs far above what vmkeep writes: somebody wants to exhaust this machine.
        raise KeyRefused(f"the key object {name} asks for unreasonable memory or time.", object=name)
    return dict(fields)


def _is_hex(value: object, length: int) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{2 * length}}}", value) is not None


def _unwrap(fields: dict[str, Any], parameters: Parameters, password: Secret) -> bytes | None:
    kdf = fields["kdf"]
    wrapping = Argon2id(
        salt=bytes.fromhex(kdf["salt"]),
        length=32,
        iterations=kdf["iterations"],
        lanes=kdf["lanes"],
        memory_cost=kdf["memory_kib"],
    ).derive(password.reveal())
    associated = _associated(parameters, bytes.fromhex(fields["id"]))
    try:
        return AESGCM(wrapping).decrypt(
            bytes.fromhex(fields["nonce"]), bytes.fromhex(fields["wrapped"]), associated
        )
    except InvalidTag:
        return None  # another password's key


def _associated(parameters: Parameters, key_id: bytes) -> bytes:
    return b"vmkeep key v1" + parameters.repository + parameters.digest() + key_id
