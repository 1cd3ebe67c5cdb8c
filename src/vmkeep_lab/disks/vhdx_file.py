"""A VHDX file as a writer must treat it: headers first, metadata through the log ([MS-VHDX] 2.2.2, 2.3)."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import UUID

from vmkeep_lab.disks.errors import DiskCorrupt, NotAVirtualDisk
from vmkeep_lab.disks.log import PAGES_AN_ENTRY, Ring, replay
from vmkeep_lab.disks.vhdx import (
    BAT_REGION,
    FILE_TYPE,
    HEADER_PLACES,
    KIB,
    METADATA_REGION,
    MIB,
    NO_GUID,
    PAGE,
    REGION_TABLE_PLACES,
    Header,
    current_header,
    decode_region_table,
    encode_region_table,
    file_identifier,
)

CREATOR: Final = "vmkeep lab"
LOG_PLACE: Final = MIB
LOG_LENGTH: Final = MIB


def derived_guid(*parts: object) -> UUID:
    """Return the GUID that stands for some facts, always the same for the same facts."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return UUID(bytes=digest[:16], version=4)


class VhdxFile:
    """An open file: its headers and log, kept by the rules while it is changed.

    Nothing is written before the first ``begin``. From then until ``end`` the
    file looks like one in use, its LogGuid set (unless ``through_log`` is
    off). A killed process loses no write; a power cut is not survived, since
    nothing but ``flush`` waits for the medium.

    GUIDs are derived from those before, the file's name and ``seed``: one
    seed, the same bytes; two seeds, files that differ in every GUID to come.
    """

    def __init__(self, path: Path, *, through_log: bool, seed: object) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR)
        try:
            self._through_log = through_log
            self._seed = seed
            self._ring: Ring | None = None
            self._file_write_renewed = False
            self._data_write_renewed = False
            self.size = os.fstat(self.fd).st_size
            self._slot, self.header = self._read_headers()
            if self.header.log_guid != NO_GUID:
                self._recover()
            self.regions = self._read_regions()
        except BaseException:
            os.close(self.fd)
            raise

    @classmethod
    def create(
        cls, path: Path, metadata: bytes, bat: bytes, bat_length: int, end: int, guids: tuple[UUID, UUID]
    ) -> None:
        """Write a new file: log, metadata and BAT in this order behind the headers, ``end`` bytes long.

        ``guids`` are its FileWriteGuid and DataWriteGuid. The order is that of
        files which Hyper-V made (docs/believed.md).
        """
        metadata_place, bat_place = LOG_PLACE + LOG_LENGTH, LOG_PLACE + LOG_LENGTH + MIB
        regions = {METADATA_REGION: (metadata_place, MIB), BAT_REGION: (bat_place, bat_length)}
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.ftruncate(fd, end)
            os.pwrite(fd, file_identifier(CREATOR), 0)
            for sequence, place in enumerate(HEADER_PLACES, 1):
                header = Header(sequence, *guids, NO_GUID, LOG_PLACE, LOG_LENGTH)
                os.pwrite(fd, header.encode(), place)
            for place in REGION_TABLE_PLACES:
                os.pwrite(fd, encode_region_table(regions), place)
            os.pwrite(fd, metadata, metadata_place)
            os.pwrite(fd, bat, bat_place)
        finally:
            os.close(fd)

    @staticmethod
    def end_of_metadata(bat_length: int) -> int:
        """Return where a new file's blocks begin."""
        return LOG_PLACE + LOG_LENGTH + MIB + bat_length

    @property
    def is_in_use(self) -> bool:
        """Tell whether the header names a log, as that of a running VM's disk does."""
        return self.header.log_guid != NO_GUID

    def region(self, guid: UUID) -> tuple[int, int]:
        """Return offset and length of a region."""
        if guid not in self.regions:
            raise DiskCorrupt(f"{self.path.name} has no region {guid}")
        return self.regions[guid]

    def next_data_write_guid(self) -> UUID:
        """Return the DataWriteGuid that the next change visible to a guest brings."""
        return self._derive("data", self.header.data_write_guid)

    def begin(self, *, visible: bool, data_write_guid: UUID | None = None) -> None:
        """Do what must come before a change: new GUIDs in both headers, a log that is valid.

        ``visible``: a guest could read the difference (2.2.2, DataWriteGuid).
        """
        if self._file_write_renewed and (self._data_write_renewed or not visible):
            return
        changed = self.header
        if not self._file_write_renewed:
            changed = replace(changed, file_write_guid=self._derive("file", changed.file_write_guid))
        if visible and not self._data_write_renewed:
            changed = replace(changed, data_write_guid=data_write_guid or self.next_data_write_guid())
            self._data_write_renewed = True
        self._file_write_renewed = True
        self._update_headers(changed)
        self.grow(-(-self.size // MIB) * MIB)
        if self._through_log and self._ring is None and self.header.log_length:
            self._start_log()

    def commit(self, zeros: Sequence[tuple[int, int]], pages: Mapping[int, bytes]) -> None:
        """Change metadata: zero ranges first, then pages (file offset to 4 KiB) in their order."""
        if self._ring is None:
            for offset, length in zeros:
                os.pwrite(self.fd, bytes(length), offset)
            for offset, page in pages.items():
                os.pwrite(self.fd, page, offset)
            return
        places = list(pages)
        for start in range(0, max(1, len(places)), PAGES_AN_ENTRY):
            group = {place: pages[place] for place in places[start : start + PAGES_AN_ENTRY]}
            self._ring.append(zeros if start == 0 else (), group, self.size)

    def grow(self, size: int) -> None:
        """Make the file at least so long; what is new reads as zeros."""
        if size > self.size:
            os.ftruncate(self.fd, size)
            self.size = size

    def flush(self) -> None:
        """Wait until all that was written is on the medium."""
        os.fsync(self.fd)

    def end(self) -> None:
        """Leave the file as a clean one: everything in its place, no log."""
        if self._ring is not None:
            self._ring.write_back()
            self._ring = None
            self._update_headers(replace(self.header, log_guid=NO_GUID))
        self._file_write_renewed = self._data_write_renewed = False

    def close(self) -> None:
        """Leave the file clean and let it go; repeating it does nothing."""
        if self.fd >= 0:
            self.end()
            os.close(self.fd)
            self.fd = -1

    def abandon(self) -> None:
        """Let the file go as a host that loses its power does: what is in the log stays there."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    # --- headers and regions -------------------------------------------------------

    def _derive(self, kind: str, previous: UUID) -> UUID:
        return derived_guid(kind, previous, self.header.sequence, self.path.name, self._seed)

    def _read_headers(self) -> tuple[int, Header]:
        if os.pread(self.fd, len(FILE_TYPE), 0) != FILE_TYPE:
            raise NotAVirtualDisk(f"{self.path.name} is no VHDX file")
        return current_header([Header.decode(os.pread(self.fd, PAGE, place)) for place in HEADER_PLACES])

    def _update_headers(self, changed: Header) -> None:
        # 2.2.2.1: the other slot, one number higher; twice, so that both are fresh.
        for _ in HEADER_PLACES:
            self._slot = 1 - self._slot
            changed = replace(changed, sequence=self.header.sequence + 1)
            os.pwrite(self.fd, changed.encode(), HEADER_PLACES[self._slot])
            self.header = changed

    def _read_regions(self) -> dict[UUID, tuple[int, int]]:
        for place in REGION_TABLE_PLACES:
            regions = decode_region_table(os.pread(self.fd, 64 * KIB, place))
            if regions is not None:
                return regions
        raise DiskCorrupt(f"neither region table of {self.path.name} is valid")

    # --- log -------------------------------------------------------------------------

    def _recover(self) -> None:
        """Finish what a writer before us left in the log (2.3.3)."""
        self._update_headers(
            replace(self.header, file_write_guid=self._derive("file", self.header.file_write_guid))
        )
        ring = os.pread(self.fd, self.header.log_length, self.header.log_offset)
        replay(self.fd, ring, self.header.log_guid)
        self._update_headers(replace(self.header, log_guid=NO_GUID))
        self.size = os.fstat(self.fd).st_size

    def _start_log(self) -> None:
        # The empty entry comes first: a header that names a log without a valid entry is a corrupt file.
        guid = self._derive("log", self.header.file_write_guid)
        self._ring = Ring(self.fd, self.header.log_offset, self.header.log_length, guid)
        self._ring.append((), {}, self.size)
        self._update_headers(replace(self.header, log_guid=guid))
