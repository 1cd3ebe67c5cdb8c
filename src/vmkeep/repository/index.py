"""Where chunks and nodes lie: derived from the packs, never the truth, deletable.

`docs/format.md` section 12. In memory there is a table of what was learned lately; once that grows large it
is written to a sorted file of this machine and searched there, so that memory
does not grow with the repository. What was read in earlier runs may be in copies
kept between them (`index_cache`).
"""

import struct
import sys
import threading
from array import array
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from vmkeep.repository.errors import Tampered
from vmkeep.repository.index_copy import CopyDamaged, IndexCopy
from vmkeep.repository.packs import Kind, PackRef
from vmkeep.repository.slots import Slot
from vmkeep.repository.sorted_entries import (
    KEY_BYTES,
    RECORD_BYTES,
    SortedEntries,
    first_to_merge,
    join_records,
    merge,
)

PREFIX: Final = "index/"
_MAGIC: Final = b"VMKINDX1"
_COUNTS = struct.Struct("<8sII")
_PACK = struct.Struct("<16sBxxxI")
_KEY = struct.Struct("<16s8x")
_ENTRY = struct.Struct("<16sII")
PACK_WORD: Final = slice(4, None, RECORD_BYTES // 4)  # the pack numbers among the words of records
_SLOT_WORD: Final = slice(5, None, RECORD_BYTES // 4)
_SPILL_ENTRIES: Final = 128 << 10  # about 30 MB of Python objects
_MAX_RUNS: Final = 8
# While index objects are loaded nothing is looked up, so that there may be more files.
_MAX_RUNS_LOADING: Final = 64
_NOWHERE: Final = 0xFFFFFFFF


class Location(NamedTuple):
    """Where a frame can be found."""

    pack: PackRef
    slot: int


class _Copy(NamedTuple):
    """A copy in use: the index's number of each of its packs, and how to learn anew what it says."""

    entries: IndexCopy
    numbers: "array[int]"
    learn_again: Callable[[], None]


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
        self._files: list[SortedEntries] = []  # oldest first
        self._loaded: list[bytes] = []  # records of large index objects, not written yet
        self._copies: list[_Copy] = []
        self._folder = folder
        self._lock = threading.RLock()  # a damaged copy is learned anew in the middle of a look-up

    def __len__(self) -> int:
        written = sum(len(file) for file in [*self._files, *(copy.entries for copy in self._copies)])
        return len(self._recent) + sum(len(part) for part in self._loaded) // RECORD_BYTES + written

    @property
    def runs(self) -> int:
        """How many sorted files this machine keeps for it now."""
        return len(self._files)

    @property
    def packs(self) -> list[PackRef]:
        """The packs whose slot tables are known."""
        return [p for n, p in enumerate(self._packs) if n not in self._dropped]

    def knows_pack(self, ref: PackRef) -> bool:
        return ref in self._numbers

    def find(self, content_id: bytes) -> Location | None:
        """Return where the frame lies, or None when nothing is known."""
        with self._lock:
            return self._look_up(content_id[:KEY_BYTES], self._dropped)

    def find_reusable(self, content_id: bytes) -> Location | None:
        """Like :meth:`find`, but never in an avoided pack: what a writer may build on."""
        with self._lock:
            return self._look_up(content_id[:KEY_BYTES], self._unusable)

    def _look_up(self, key: bytes, excluded: set[int]) -> Location | None:
        value = self._recent.get(key)
        if value is not None and value >> 32 not in excluded:
            return self._location(value)
        self._write_loaded()
        self._merge(self._max_runs)
        for file in reversed(self._files):
            record = file.find(key)
            if record is not None:
                _, pack, slot = _ENTRY.unpack(record)
                if pack not in excluded:
                    return Location(self._packs[pack], slot)
        return self._look_up_copied(key, excluded) if self._copies else None

    def _look_up_copied(self, key: bytes, excluded: set[int]) -> Location | None:
        for copy in self._copies:
            try:
                for record in copy.entries.find_all(key):
                    _, place, slot = _ENTRY.unpack(record)
                    pack = copy.numbers[place]
                    if pack != _NOWHERE and pack not in excluded:
                        return Location(self._packs[pack], slot)
            except CopyDamaged:
                self._replace(copy)
                return self._look_up(key, excluded)
        return None

    def _replace(self, copy: _Copy) -> None:
        """Do without a damaged copy: what it said is learned from where it came from."""
        self._copies.remove(copy)
        copy.entries.delete()
        # Whatever does not come back, a reader has to miss in order to look for it.
        self.drop_packs([self._packs[n] for n in copy.numbers if n != _NOWHERE and n not in self._dropped])
        copy.learn_again()

    def _location(self, value: int) -> Location:
        return Location(self._packs[value >> 32], value & 0xFFFFFFFF)

    def add(self, ref: PackRef, slot: int, content_id: bytes) -> None:
        """Learn where one frame lies; a later answer wins, but an avoided pack over none."""
        with self._lock:
            self._add(content_id[:KEY_BYTES], self._number(ref) << 32 | slot)

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
        packs, words = decode_words(content, name)
        entries = records_of(words)
        with self._lock:
            numbers = [self._number(ref) if ref in present else None for ref, _ in packs]
            usable = [number for number in numbers if number is not None and number not in self._unusable]
            if len(usable) == len(numbers):
                count = len(entries) // RECORD_BYTES
                if len(self._recent) + count < self._spill_entries:
                    places = zip(words[PACK_WORD], words[_SLOT_WORD], strict=True)
                    values = [usable[pack] << 32 | slot for pack, slot in places]
                    self._recent.update(
                        zip((key for (key,) in _KEY.iter_unpack(entries)), values, strict=True)
                    )
                    return
                if count >= self._spill_entries // 8:
                    words[PACK_WORD] = array("I", map(usable.__getitem__, words[PACK_WORD]))
                    self._load(records_of(words))
                    return
            for key, pack, slot in _ENTRY.iter_unpack(entries):
                number = numbers[pack]
                if number is not None:
                    self._add(key, number << 32 | slot)

    def _load(self, records: bytes) -> None:
        """Keep a large index object as it is; entry by entry it would take many times as long."""
        self._loaded.append(records)
        if sum(map(len, self._loaded)) >= self._spill_entries * RECORD_BYTES:
            self._write_loaded()
            self._merge(max(self._max_runs, _MAX_RUNS_LOADING))

    def add_copy(
        self,
        entries: IndexCopy,
        listed: Container[str],
        present: Container[PackRef],
        learn_again: Callable[[], None],
    ) -> None:
        """Search this copy too, as if the ``listed`` ones of its index objects had been added.

        ``learn_again`` does add them; it is called once if the copy turns out
        damaged. The copy is closed with this index.
        """
        usable = [PREFIX + digits in listed for digits in entries.objects]
        with self._lock:
            numbers = array("I")
            for ref, _, number in entries.packs():
                numbers.append(self._number(ref) if usable[number] and ref in present else _NOWHERE)
            self._copies.append(_Copy(entries, numbers, learn_again))

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
        """Remove what was written to this machine; copies stay for the next run."""
        with self._lock:
            for file in [*self._files, *(copy.entries for copy in self._copies)]:
                file.remove()
            self._files.clear()
            self._copies.clear()

    def _number(self, ref: PackRef) -> int:
        number = self._numbers.get(ref)
        if number is None:
            number = self._numbers[ref] = len(self._packs)
            self._packs.append(ref)
            if ref.id in self._avoided_ids:
                self._unusable.add(number)
        return number

    def _spill(self) -> None:
        records = sorted(_ENTRY.pack(key, v >> 32, v & 0xFFFFFFFF) for key, v in self._recent.items())
        self._recent = {}
        self._files.append(SortedEntries.write([b"".join(records)], self._folder))
        self._merge(self._max_runs)

    def _write_loaded(self) -> None:
        if self._loaded:
            # What was added one by one came later, unless it was written already.
            records = self._loaded[0] if len(self._loaded) == 1 else join_records(self._loaded)
            self._files.append(SortedEntries.write([records], self._folder))
            self._loaded = []

    def _merge(self, limit: int) -> None:
        """Have at most ``limit`` files: a look-up asks every one."""
        if len(self._files) <= limit:
            return
        first = first_to_merge([len(file) for file in self._files], limit)
        old = self._files[first:]
        self._files[first:] = [merge(old, self._dropped, self._folder)]
        for file in old:
            file.remove()


def words_of(records: bytes) -> "array[int]":
    """Return records as numbers of 32 bits, six each, in which pack numbers can be changed in bulk."""
    words = array("I", records)
    if sys.byteorder == "big":
        words.byteswap()
    return words


def records_of(words: "array[int]") -> bytes:
    """Return the records of which these are the :func:`words_of`."""
    if sys.byteorder == "big":
        words = words[:]
        words.byteswap()
    return words.tobytes()


def encode_index(packs: Sequence[tuple[PackRef, Sequence[Slot]]]) -> bytes:
    """Return the content of an index object over the given packs."""
    head = b"".join(_PACK.pack(ref.id, ref.kind, len(slots)) for ref, slots in packs)
    entries = sorted(
        (slot.id[:KEY_BYTES], number, position)
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


def decode_words(content: bytes, name: str) -> "tuple[list[tuple[PackRef, int]], array[int]]":
    """Return the packs (with their slot counts) and the entries of an index object as :func:`words_of`.

    Raises Tampered also when an entry names a pack that is not among them.
    """
    packs, entries = decode_index(content, name)
    words = words_of(entries.tobytes())
    if max(words[PACK_WORD], default=-1) >= len(packs):
        raise Tampered(f"the index object {name} is damaged.", object=name)
    return packs, words
