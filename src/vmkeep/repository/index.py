"""Where chunks and nodes lie: derived from the packs, never the truth, deletable.

`docs/format.md` section 12. In memory there is a table of what was learned lately; once that grows large it
is written to a sorted file of this machine and searched there, so that memory
does not grow with the repository.
"""

import heapq
import struct
import tempfile
import threading
from array import array
from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

from vmkeep.repository.errors import Tampered
from vmkeep.repository.packs import Kind, PackRef, Slot

PREFIX: Final = "index/"
PREFIX_BYTES: Final = 16
_MAGIC: Final = b"VMKINDX1"
_COUNTS = struct.Struct("<8sII")
_PACK = struct.Struct("<16sBxxxI")
_ENTRY = struct.Struct("<16sII")
_PAGE_ENTRIES: Final = 170  # 170 * 24 = 4080 bytes, one page of the file system
_SPILL_ENTRIES: Final = 256 << 10  # about 60 MB of Python objects
_MAX_RUNS: Final = 8
_BUFFER: Final = 16 << 10  # small: a look-up reads one page


class Location(NamedTuple):
    """Where a frame can be found."""

    pack: PackRef
    slot: int


class Index:
    """Answer "is this id stored, and where?"; thread-safe.

    An answer is a hint: the pack may have gone, and the frame is authenticated
    when it is read. Two ids that agree in 16 bytes are taken for one; with
    keyed 256-bit ids that does not happen.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        spill_entries: int = _SPILL_ENTRIES,
        max_runs: int = _MAX_RUNS,
    ) -> None:
        """``folder``: where sorted runs may be written; the system's temporary folder by default.

        More than ``spill_entries`` recent answers become a sorted run, more than
        ``max_runs`` of these become one.
        """
        self._spill_entries = spill_entries
        self._max_runs = max_runs
        self._recent: dict[bytes, int] = {}
        self._packs: list[PackRef] = []
        self._numbers: dict[PackRef, int] = {}
        self._dropped: set[int] = set()
        self._avoided_ids: frozenset[bytes] = frozenset()
        self._unusable: set[int] = set()  # numbers of dropped and avoided packs
        self._runs: list[_SortedRun] = []
        self._folder = folder
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._recent) + sum(len(run) for run in self._runs)

    @property
    def runs(self) -> int:
        """How many sorted files this machine keeps for it now."""
        return len(self._runs)

    @property
    def packs(self) -> list[PackRef]:
        """The packs whose slot tables are known."""
        return [p for n, p in enumerate(self._packs) if n not in self._dropped]

    def knows_pack(self, ref: PackRef) -> bool:
        return ref in self._numbers

    def find(self, content_id: bytes) -> Location | None:
        """Return where the frame lies, or None when nothing is known."""
        with self._lock:
            return self._look_up(content_id[:PREFIX_BYTES], self._dropped)

    def find_reusable(self, content_id: bytes) -> Location | None:
        """Like :meth:`find`, but never in an avoided pack: what a writer may build on."""
        with self._lock:
            return self._look_up(content_id[:PREFIX_BYTES], self._unusable)

    def _look_up(self, key: bytes, excluded: set[int]) -> Location | None:
        value = self._recent.get(key)
        if value is None or value >> 32 in excluded:
            answers = (run.find(key) for run in reversed(self._runs))
            value = next((v for v in answers if v is not None and v >> 32 not in excluded), None)
        return None if value is None else Location(self._packs[value >> 32], value & 0xFFFFFFFF)

    def add(self, ref: PackRef, slot: int, content_id: bytes) -> None:
        """Learn where one frame lies; a later answer wins, but an avoided pack over none."""
        with self._lock:
            self._add(content_id[:PREFIX_BYTES], self._number(ref) << 32 | slot)

    def _add(self, key: bytes, value: int) -> None:
        if value >> 32 in self._unusable:
            self._recent.setdefault(key, value)
        else:
            self._recent[key] = value
        if len(self._recent) >= self._spill_entries:
            self._spill()

    def add_pack(self, ref: PackRef, slots: Iterable[Slot]) -> None:
        """Learn all frames of one pack from its slot table."""
        with self._lock:
            self._number(ref)
        for number, slot in enumerate(slots):
            self.add(ref, number, slot.id)

    def add_encoded(self, content: bytes, name: str, present: Container[PackRef]) -> None:
        """Learn what an index object says of the packs that are ``present``.

        A pack that is gone must not hide where its frames were moved to. Raises
        Tampered when the object is not an index.
        """
        packs, entries = decode_index(content, name)
        with self._lock:
            numbers = [self._number(ref) if ref in present else None for ref, _ in packs]
            for key, pack, slot in _ENTRY.iter_unpack(entries):
                if pack >= len(numbers):
                    raise Tampered(f"the index object {name} is damaged.", object=name)
                number = numbers[pack]
                if number is not None:
                    self._add(key, number << 32 | slot)

    def drop_packs(self, refs: Iterable[PackRef]) -> None:
        """Forget packs that are gone or never came to be."""
        with self._lock:
            numbers = {self._numbers.pop(ref) for ref in refs if ref in self._numbers}
            if numbers:
                self._dropped |= numbers
                self._unusable |= numbers
                self._recent = {k: v for k, v in self._recent.items() if v >> 32 not in numbers}

    def avoid(self, pack_ids: Iterable[bytes]) -> None:
        """Offer nothing of these packs to writers, also if they are learned later.

        Readers still find in them what lies nowhere else.
        """
        with self._lock:
            self._avoided_ids |= frozenset(pack_ids)
            self._unusable |= {n for n, ref in enumerate(self._packs) if ref.id in self._avoided_ids}

    def close(self) -> None:
        """Remove what was written to this machine."""
        with self._lock:
            for run in self._runs:
                run.remove()
            self._runs.clear()

    def _number(self, ref: PackRef) -> int:
        number = self._numbers.get(ref)
        if number is None:
            number = self._numbers[ref] = len(self._packs)
            self._packs.append(ref)
            if ref.id in self._avoided_ids:
                self._unusable.add(number)
        return number

    def _spill(self) -> None:
        items = sorted(self._recent.items())
        self._recent = {}
        self._runs.append(_SortedRun.write(iter(items), self._folder))
        if len(self._runs) > self._max_runs:
            # One run again: a look-up asks every run, so their number must stay small.
            merged = _SortedRun.write(_merge(self._runs, self._dropped), self._folder)
            for run in self._runs:
                run.remove()
            self._runs = [merged]


class _SortedRun:
    """A file of entries in ascending order and, in memory, the first key of each page."""

    def __init__(self, file: IO[bytes], fences: "array[int]", count: int) -> None:
        self._file = file
        self._fences = fences
        self._count = count

    def __len__(self) -> int:
        return self._count

    @classmethod
    def write(cls, items: Iterable[tuple[bytes, int]], folder: Path | None) -> "_SortedRun":
        # A file without a name: a killed process leaves nothing behind.
        file: IO[bytes] = tempfile.TemporaryFile(buffering=_BUFFER, dir=folder)  # noqa: SIM115 - closed by remove()
        fences: array[int] = array("Q")
        count = 0
        for key, value in items:
            if count % _PAGE_ENTRIES == 0:
                fences.append(int.from_bytes(key[:8], "big"))
            file.write(_ENTRY.pack(key, value >> 32, value & 0xFFFFFFFF))
            count += 1
        file.flush()
        return cls(file, fences, count)

    def find(self, key: bytes) -> int | None:
        # Several pages can start with the same 8 bytes only by chance; then the
        # key may lie in the page before the last of them.
        page = bisect_right(self._fences, int.from_bytes(key[:8], "big")) - 1
        while page >= 0:
            value = self._find_in_page(page, key)
            if value is not None or self._fences[page] != int.from_bytes(key[:8], "big"):
                return value
            page -= 1
        return None

    def _find_in_page(self, page: int, key: bytes) -> int | None:
        data = self._read(page * _PAGE_ENTRIES, _PAGE_ENTRIES)
        at = data.find(key)
        while at >= 0 and at % _ENTRY.size:
            at = data.find(key, at + 1)
        if at < 0:
            return None
        _, pack, slot = _ENTRY.unpack_from(data, at)
        return int(pack << 32 | slot)

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        at = 0
        while data := self._read(at, _PAGE_ENTRIES * 64):
            at += _PAGE_ENTRIES * 64
            for key, pack, slot in _ENTRY.iter_unpack(data):
                yield key, pack << 32 | slot

    def _read(self, entry: int, count: int) -> bytes:
        self._file.seek(entry * _ENTRY.size)
        return self._file.read(count * _ENTRY.size)

    def remove(self) -> None:
        self._file.close()


def _merge(runs: Sequence[_SortedRun], dropped: set[int]) -> Iterator[tuple[bytes, int]]:
    """Merge runs, oldest first; of equal keys the newest stays."""

    def tagged(age: int, run: _SortedRun) -> Iterator[tuple[bytes, int, int]]:
        return ((key, -age, value) for key, value in run)

    last = b""
    for key, _, value in heapq.merge(*(tagged(age, run) for age, run in enumerate(runs))):
        if key != last and value >> 32 not in dropped:
            yield key, value
            last = key


def encode_index(packs: Sequence[tuple[PackRef, Sequence[Slot]]]) -> bytes:
    """Return the content of an index object over the given packs."""
    head = b"".join(_PACK.pack(ref.id, ref.kind, len(slots)) for ref, slots in packs)
    entries = sorted(
        (slot.id[:PREFIX_BYTES], number, position)
        for number, (_, slots) in enumerate(packs)
        for position, slot in enumerate(slots)
    )
    return _COUNTS.pack(_MAGIC, len(packs), len(entries)) + head + b"".join(_ENTRY.pack(*e) for e in entries)


def decode_index(content: bytes, name: str) -> tuple[list[tuple[PackRef, int]], memoryview]:
    """Return the packs (with their slot counts) and the raw entries of an index object."""
    try:
        magic, pack_count, entry_count = _COUNTS.unpack_from(content)
        entries_at = _COUNTS.size + pack_count * _PACK.size
        if magic != _MAGIC or len(content) != entries_at + entry_count * _ENTRY.size:
            raise ValueError("wrong length")
        packs = [
            (PackRef(pack_id, Kind(kind)), slots)
            for pack_id, kind, slots in _PACK.iter_unpack(content[_COUNTS.size : entries_at])
        ]
    except (struct.error, ValueError) as error:
        raise Tampered(f"the index object {name} is damaged.", object=name) from error
    return packs, memoryview(content)[entries_at:]
