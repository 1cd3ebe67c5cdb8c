"""Remember, outside the repository, the newest restore point seen of each VM.

Whoever controls the storage can show an old state of it, authentic in every
byte. Only somebody who remembers a newer one can tell.
"""

import json
import os
import tempfile
from pathlib import Path

from vmkeep.repository.errors import RolledBack
from vmkeep.repository.listing import POINTS, SEALS, Listing, SealedPoint


class Heads:
    """This machine's memory of one repository: VM id → (number, digest), in a file of its own."""

    def __init__(self, folder: Path, repository: bytes) -> None:
        self._path = folder / f"heads-{repository.hex()}.json"

    def check(self, listing: Listing) -> None:
        """Raise RolledBack when a point this machine has seen is neither there nor forgotten."""
        present = listing.digests
        objects = [str(problem.context.get("object")) for problem in listing.problems]
        damaged = {name.replace(SEALS, POINTS, 1) if name.startswith(SEALS) else name for name in objects}
        for vm_id, (number, digest, name) in self._read().items():
            if digest not in present and name not in damaged:
                raise RolledBack(
                    f"the repository lacks restore point {number} of the VM {vm_id!r}, which this "
                    "machine has seen: it was rolled back, replaced, or cut.",
                    vm=vm_id,
                )

    def remember(self, listing: Listing, *, accept_rollback: bool = False) -> None:
        """Take the newest sealed points as what must be there from now on.

        A point that cannot be read just now is not forgotten, unless
        ``accept_rollback``: or its damage today would hide its loss tomorrow.
        """
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

    def _read(self) -> dict[str, tuple[int, bytes, str]]:
        try:
            fields = json.loads(self._path.read_text("utf-8"))
            return {vm: (int(n), bytes.fromhex(d), str(name)) for vm, (n, d, name) in fields.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError):
            return {}  # a torn file of ours: memory starts anew, nothing stored depends on it

    def _write(self, heads: dict[str, tuple[int, bytes, str]]) -> None:
        text = json.dumps({vm: [number, digest.hex(), name] for vm, (number, digest, name) in heads.items()})
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._path.parent)  # 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
