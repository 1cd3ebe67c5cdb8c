"""Remember, outside the repository, each VM's newest restore point, and which repository lies where.

Whoever controls the storage can show an old state of it, authentic in every
byte, or another repository that opens with the same password. Only somebody
who remembers can tell.
"""

import json
import os
import tempfile
from pathlib import Path

from blake3 import blake3

from vmkeep.repository.errors import RolledBack
from vmkeep.repository.listing import POINTS, SEALS, Listing, SealedPoint

Seen = dict[str, tuple[int, bytes, str]]


class Heads:
    """This machine's memory of one repository at one address, in one folder of files.

    ``heads-ID.json`` holds VM id → (number, digest, name). ``place-ADDRESS-ID``,
    one for each repository seen at an address, needs no content: no two
    processes ever write one file differently. What is wrong with the memory
    itself is told in ``warnings``.
    """

    def __init__(self, folder: Path, repository: bytes, address: str) -> None:
        self._path = folder / f"heads-{repository.hex()}.json"
        self._address = address
        place = blake3(address.encode("utf-8", "surrogateescape")).digest(16).hex()
        self._seen_here = f"place-{place}-"
        self._place = folder / f"{self._seen_here}{repository.hex()}"
        self.warnings: list[str] = []

    def recall(self) -> Seen:
        """Return what this machine has seen so far: VM id → (number, digest, name)."""
        return self._read()

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
        for vm_id, (number, digest, name) in seen.items():
            if digest not in present and name not in damaged:
                known = listing.newest(vm_id)
                vm = f"{known.point.vm.name!r} ({vm_id})" if known is not None else repr(vm_id)
                raise RolledBack(
                    f"the repository lacks restore point {number} of the VM {vm}, which this "
                    "machine has seen: it was rolled back, replaced, or cut.",
                    vm=vm_id,
                )

    def _check_place(self) -> None:
        if not self._place.exists() and any(self._place.parent.glob(f"{self._seen_here}*")):
            raise RolledBack(
                f"at {self._address!r} lies another repository than this machine has seen there: "
                "it was replaced.",
                hint="If you replaced it, or disks take turns at this place, repeat once with "
                "--accept-rollback: then this one is known as well.",
                address=self._address,
            )

    def know_place(self) -> None:
        """Take this repository as one that may lie at this address from now on."""
        if not self._place.exists():
            self._replace(self._place, json.dumps({"address": self._address}))

    def remember(self, listing: Listing, *, accept_rollback: bool = False) -> None:
        """Take the newest sealed points as what must be there from now on.

        A point that cannot be read just now is not forgotten, unless
        ``accept_rollback``: or its damage today would hide its loss tomorrow.
        """
        self.know_place()
        newest: dict[str, SealedPoint] = {}
        for sealed in listing.points:
            known = newest.get(sealed.point.vm.id)
            if known is None or sealed.point.number >= known.point.number:
                newest[sealed.point.vm.id] = sealed
        seen = self._read()
        heads = {vm: (s.point.number, s.digest, s.name) for vm, s in newest.items()}
        if not accept_rollback:
            heads |= {vm: head for vm, head in seen.items() if head[1] not in listing.digests}
        if heads != seen:
            self._write(heads)

    def add(self, sealed: SealedPoint) -> None:
        """Take a point this machine has just made as what must be there from now on."""
        seen = self._read()
        known = seen.get(sealed.point.vm.id)
        if known is None or sealed.point.number >= known[0]:
            self._write(seen | {sealed.point.vm.id: (sealed.point.number, sealed.digest, sealed.name)})

    def newest(self, vm_id: str) -> tuple[int, str, bytes] | None:
        """Return number, object name and digest of the newest point of a VM that this machine has seen."""
        head = self._read().get(vm_id)
        return (head[0], head[2], head[1]) if head is not None else None

    def _read(self) -> Seen:
        try:
            fields = json.loads(self._path.read_text("utf-8"))
            return {vm: (int(n), bytes.fromhex(d), str(name)) for vm, (n, d, name) in fields.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError, RecursionError):
            self._put_aside()
            return {}

    def _put_aside(self) -> None:
        aside = self._path.with_name(self._path.name + ".damaged")
        text = f"what this machine remembered in {str(self._path)!r} cannot be understood and starts anew"
        try:
            os.replace(self._path, aside)
            text += f" (it was kept as {aside.name})"
        except OSError:
            text += " (it could not be kept aside)"
        self.warnings.append(f"{text}: if the repository was rolled back since, nobody notices.")

    def _write(self, heads: dict[str, tuple[int, bytes, str]]) -> None:
        fields = {vm: [number, digest.hex(), name] for vm, (number, digest, name) in heads.items()}
        self._replace(self._path, json.dumps(fields))

    def _replace(self, path: Path, text: str) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)  # 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
