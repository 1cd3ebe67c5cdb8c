"""Remember, outside the repository, what this machine has seen of it: newest points, places, keys.

Whoever controls the storage can show an old state of it, authentic in every
byte, or another repository that opens with the same password. Only somebody
who remembers can tell.
"""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from blake3 import blake3

from vmkeep.repository.errors import RolledBack
from vmkeep.repository.listing import POINTS, SEALS, Listing, SealedPoint

_UNNOTICED: Final = "if the repository was rolled back since, nobody notices"


class Head(NamedTuple):
    """A restore point that was the newest of its VM when this machine saw it."""

    vm: str
    number: int
    digest: bytes
    name: str

    @classmethod
    def of(cls, sealed: SealedPoint) -> "Head":
        return cls(sealed.point.vm.id, sealed.point.number, sealed.digest, sealed.name)

    def encode(self) -> str:
        return json.dumps(
            {"vm": self.vm, "number": self.number, "digest": self.digest.hex(), "name": self.name}
        )


Seen: TypeAlias = frozenset[Head]


class Heads:
    """This machine's memory of one repository at one address, in one folder of small files.

    ``head-ID-HASH.json``: a restore point that must be there; HASH is that of
    the content. ``place-ADDRESS-ID``: a repository seen at an address.
    ``key-ID-KEY``: a key that opened the repository. Any two processes that write
    a file write the same into it, and what is new is written before what it
    replaces is removed: so nothing is lost without a lock. What is wrong with
    the memory itself is told in ``warnings``.
    """

    def __init__(self, folder: Path, repository: bytes, address: str) -> None:
        self._folder = folder
        self._address = address
        self._head = f"head-{repository.hex()}-"
        self._key = f"key-{repository.hex()}-"
        place = blake3(address.encode("utf-8", "surrogateescape")).digest(16).hex()
        self._seen_here = f"place-{place}-"
        self._place = f"{self._seen_here}{repository.hex()}"
        self.warnings: list[str] = []

    def recall(self) -> Seen:
        """Return the restore points that must be there, by what this machine has seen so far.

        What cannot be read or understood is told in ``warnings``, and counts as never seen:
        whoever needs data back must not be kept from it by a note.
        """
        pattern = re.compile(re.escape(self._head) + r"[0-9a-f]{32}\.json")
        heads = (self._read(name) for name in self._names() if pattern.fullmatch(name))
        return frozenset(head for head in heads if head is not None)

    def check(self, seen: Seen, listing: Listing) -> None:
        """Raise RolledBack when a point ``seen`` is neither in the listing nor forgotten.

        Also when this machine has seen only other repositories at this address.
        The listing is made after :meth:`recall`: a run on this machine may make
        a point, and note it, at any time.
        """
        self._check_place()
        present = listing.digests
        objects = [str(problem.context.get("object")) for problem in listing.problems]
        damaged = {name.replace(SEALS, POINTS, 1) if name.startswith(SEALS) else name for name in objects}
        for head in sorted(seen, key=lambda head: (head.vm, -head.number)):
            if head.digest not in present and head.name not in damaged:
                known = listing.newest(head.vm)
                vm = f"{known.point.vm.name!r} ({head.vm})" if known is not None else repr(head.vm)
                raise RolledBack(
                    f"the repository lacks restore point {head.number} of the VM {vm}, which this "
                    "machine has seen: it was rolled back, replaced, or cut.",
                    vm=head.vm,
                )

    def _check_place(self) -> None:
        names = self._names()
        if self._place not in names and any(name.startswith(self._seen_here) for name in names):
            raise RolledBack(
                f"at {self._address!r} lies another repository than this machine has seen there: "
                "it was replaced.",
                hint="If you replaced it, or disks take turns at this place, repeat once with "
                "--accept-rollback: then this one is known as well.",
                address=self._address,
            )

    def know_place(self) -> None:
        """Take this repository as one that may lie at this address from now on."""
        if self._place not in self._names():
            self._write(self._place, json.dumps({"address": self._address}))

    def keys(self) -> frozenset[str]:
        """Return the ids of the keys that opened the repository on this machine: a hint, no more."""
        return frozenset(name.removeprefix(self._key) for name in self._names() if name.startswith(self._key))

    def know_key(self, key_id: str) -> None:
        """Take this key as one that opens the repository."""
        if key_id not in self.keys():
            self._write(self._key + key_id, json.dumps({"key": key_id}))

    def remember(self, seen: Seen, listing: Listing, *, accept_rollback: bool = False) -> None:
        """Take the newest points of a listing as what must be there, instead of what was ``seen`` before it.

        A point that cannot be read just now is not forgotten, unless
        ``accept_rollback``: or its damage today would hide its loss tomorrow.
        """
        self.know_place()
        newest: dict[str, SealedPoint] = {}
        for sealed in listing.points:
            known = newest.get(sealed.point.vm.id)
            if known is None or sealed.point.number >= known.point.number:
                newest[sealed.point.vm.id] = sealed
        heads = {Head.of(sealed) for sealed in newest.values()}
        for head in heads - seen:
            self._write(self._name_of(head), head.encode())
        present = listing.digests
        for head in seen - heads:
            if accept_rollback or head.digest in present:
                (self._folder / self._name_of(head)).unlink(missing_ok=True)

    def add(self, sealed: SealedPoint) -> None:
        """Take a point this machine has just made as what must be there from now on."""
        head = Head.of(sealed)
        self._write(self._name_of(head), head.encode())
        for older in self.recall():
            # Its successor vouches for it: that it vanished is a gap, not a rollback.
            if older.vm == head.vm and older.number < head.number:
                (self._folder / self._name_of(older)).unlink(missing_ok=True)

    def newest(self, vm_id: str) -> tuple[int, str, bytes] | None:
        """Return number, object name and digest of the newest point of a VM that this machine has seen."""
        heads = [(head.number, head.name, head.digest) for head in self.recall() if head.vm == vm_id]
        return max(heads, default=None)

    def _name_of(self, head: Head) -> str:
        return f"{self._head}{_hash(head.encode())}.json"

    def _names(self) -> frozenset[str]:
        try:
            return frozenset(os.listdir(self._folder))
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            self._warn_unread(self._folder, error)
            return frozenset()

    def _read(self, name: str) -> Head | None:
        path = self._folder / name
        try:
            text = path.read_text("utf-8")
            fields = json.loads(text)
            head = Head(fields["vm"], int(fields["number"]), bytes.fromhex(fields["digest"]), fields["name"])
        except FileNotFoundError:
            return None  # a later point has just taken its place
        except OSError as error:
            self._warn_unread(path, error)
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            self._put_aside(path)
            return None
        if self._name_of(head) != name:
            self._put_aside(path)
            return None
        return head

    def _warn_unread(self, path: Path, error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        self._warn(
            f"what this machine remembered in {str(path)!r} cannot be read ({reason}): {_UNNOTICED}. "
            "Make it yours again, or delete it."
        )

    def _put_aside(self, path: Path) -> None:
        aside = path.with_name(path.name + ".damaged")
        text = f"what this machine remembered in {str(path)!r} cannot be understood and starts anew"
        try:
            os.replace(path, aside)
            text += f" (it was kept as {aside.name})"
        except OSError:
            text += " (it could not be kept aside)"
        self._warn(f"{text}: {_UNNOTICED}.")

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _write(self, name: str, text: str) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=self._folder)  # 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self._folder / name)
        except OSError:
            Path(unfinished).unlink(missing_ok=True)
            raise


def _hash(text: str) -> str:
    return blake3(text.encode()).digest(16).hex()
