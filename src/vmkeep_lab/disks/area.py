"""A part of a disk that is written as if it were a whole one: a file of the guest's, in one piece."""

from vmkeep_lab.disks.disk import VirtualDisk
from vmkeep_lab.disks.errors import BadRequest
from vmkeep_lab.disks.metadata import Metadata


class Area:
    """``size`` bytes of a disk from ``start``; offsets count from there. Nothing outside is touched."""

    def __init__(self, disk: VirtualDisk, start: int, size: int) -> None:
        if start < 0 or size < 0 or start + size > disk.size:
            raise BadRequest(f"{size} bytes at {start} of a disk of {disk.size}")
        self.size = size
        self._disk = disk
        self._start = start

    def metadata(self) -> Metadata:
        """Return the disk's."""
        return self._disk.metadata()

    def write(self, offset: int, data: bytes) -> None:
        """See ``VirtualDisk.write``."""
        self._disk.write(self._place(offset, len(data)), data)

    def zero(self, offset: int, length: int) -> None:
        """See ``VirtualDisk.zero``."""
        self._disk.zero(self._place(offset, length), length)

    def unmap(self, offset: int, length: int) -> None:
        """See ``VirtualDisk.unmap``."""
        self._disk.unmap(self._place(offset, length), length)

    def _place(self, offset: int, length: int) -> int:
        if offset < 0 or offset + length > self.size:
            raise BadRequest(f"{length} bytes at {offset} of an area of {self.size}")
        return self._start + offset
