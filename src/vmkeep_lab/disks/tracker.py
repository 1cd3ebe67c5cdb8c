"""Resilient change tracking of one disk: which ranges changed since an instant.

hyperv-backup-api.md 2.3 names what is known: an exact table (``.rct``) for a
host that ends well, a coarse one (``.mrt``) that is written along and serves
after an unclean stop. Granularity is not documented anywhere; ours is a
parameter. What no document says stands in docs/believed.md.
"""

import base64
import json
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from vmkeep_lab.disks import bits
from vmkeep_lab.disks.errors import BadRequest, TrackingIdInvalid, TrackingLost, TrackingOff
from vmkeep_lab.disks.vhdx import KIB, MIB
from vmkeep_lab.disks.vhdx_file import derived_guid

GRANULARITY: Final = 64 * KIB
REGION: Final = 16 * MIB
_ID: Final = re.compile(r"rctX(:[0-9a-f]+){6}")


@dataclass
class _Period:
    """The time from one mark to the next, and the granules that changed in it."""

    mark: str
    changed: bytearray


class ChangeTracker:
    """What changed on a disk since each of some marks; give it to ``VirtualDisk.tracker``.

    Never tells too little: a change is noted before it is made, in the coarse
    file too. The one exception is ``lie_after_revert``, and that is its point.
    Nothing is tracked before the first mark: RCT is off until something asks
    for a reference point.
    """

    def __init__(self, path: Path, size: int, granularity: int, region: int, seed: object) -> None:
        self.size = size
        self.granularity = granularity
        self.region = region
        self._path = path
        self._seed = seed
        self._serial = 0
        self._periods: list[_Period] = []
        self._lock = Lock()
        self._coarse = os.open(path.with_suffix(".mrt"), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._noted_regions: set[int] = set()

    @classmethod
    def open(
        cls, path: Path, size: int, *, granularity: int = GRANULARITY, region: int = REGION, seed: object = ""
    ) -> "ChangeTracker":
        """Take up the tracking whose exact table is ``path`` (``….rct``), or begin with none.

        If the one before did not end well, whole regions count as changed
        wherever something was written since its table was last saved. A table
        of another size is worth nothing; its ids are lost.
        """
        if granularity < 512 or region % granularity:
            raise BadRequest(f"granules of {granularity} bytes in regions of {region}")
        tracker = cls(path, size, granularity, region, seed)
        if path.exists():
            tracker._load(json.loads(path.read_bytes()))
        return tracker

    # --- noting ------------------------------------------------------------------------

    def note(self, offset: int, length: int) -> None:
        """Remember that a range is about to change."""
        with self._lock:
            if not self._periods or length == 0:
                return
            first, last = offset // self.granularity, (offset + length - 1) // self.granularity
            bits.set_range(self._periods[-1].changed, first, last - first + 1, True)
            touched = set(range(offset // self.region, (offset + length - 1) // self.region + 1))
            if new := touched - self._noted_regions:
                os.write(self._coarse, b"".join(region.to_bytes(8, "little") for region in sorted(new)))
                self._noted_regions |= new

    def mark(self) -> str:
        """Return an id that stands for this instant."""
        with self._lock:
            self._serial += 1
            words = str(derived_guid("rct", self._path.name, self.size, self._seed, self._serial)).split("-")
            mark = ":".join(["rctX", *words, f"{self._serial:08x}"])
            self._periods.append(_Period(mark, self._new_row()))
            self._save()
            return mark

    def forget(self, mark: str) -> None:
        """Let an id go; the others keep what they need."""
        with self._lock:
            index = self._index(mark)
            gone = self._periods.pop(index)
            if index > 0:
                before = self._periods[index - 1]
                before.changed = bits.union(before.changed, gone.changed)
            self._save()

    # --- answering -----------------------------------------------------------------------

    @property
    def marks(self) -> list[str]:
        """The ids that can be asked for, oldest first."""
        with self._lock:
            return [period.mark for period in self._periods]

    def changes(
        self, since: str, offset: int, length: int, most_ranges: int = 1 << 16
    ) -> tuple[list[tuple[int, int]], int]:
        """Return the ranges changed since a mark within a window, and how many bytes of it they cover.

        Ranges are (offset, length), ascending, whole granules cut at the window. With more than
        ``most_ranges`` the answer ends early, as GetVirtualDiskChanges does (hyperv-backup-api.md 0, fact
        8): ask again from offset + the bytes covered.
        """
        with self._lock:
            index = self._index(since)
            if offset < 0 or length < 0 or offset + length > self.size or most_ranges < 1:
                raise BadRequest(f"changes of {length} bytes at {offset} of a disk of {self.size}")
            if length == 0:
                return [], 0
            first, last = offset // self.granularity, (offset + length - 1) // self.granularity
            low, high = first // 8, last // 8 + 1
            row = bytearray(high - low)
            for period in self._periods[index:]:
                row = bits.union(row, period.changed[low:high])
            ranges: list[tuple[int, int]] = []
            for bit, count, is_changed in bits.runs(row, first - 8 * low, last - first + 1):
                if not is_changed:
                    continue
                start = max(offset, (8 * low + bit) * self.granularity)
                stop = min(offset + length, (8 * low + bit + count) * self.granularity)
                if len(ranges) == most_ranges:
                    return ranges, sum(ranges[-1]) - offset
                ranges.append((start, stop - start))
            return ranges, length

    # --- the unpleasant parts --------------------------------------------------------------

    def mrt_mode(self) -> None:
        """Answer as after an unclean stop of the host: whole regions for all that is noted so far."""
        with self._lock:
            for period in self._periods:
                coarse = self._new_row()
                for bit, count, is_changed in bits.runs(period.changed, 0, self._granules):
                    if is_changed:
                        first = bit * self.granularity // self.region
                        last = ((bit + count) * self.granularity - 1) // self.region
                        for region in range(first, last + 1):
                            self._set_region(coarse, region)
                period.changed = coarse
            self._save()

    def lie_after_revert(self) -> None:
        """Answer for every id as if nothing had changed until now, although the disk was reverted.

        Nothing documents what RCT says after a checkpoint was applied; design.md 6 has the lab assume the
        worst: ids are still known, and the difference the revert made is not in the answer.
        """
        with self._lock:
            for period in self._periods:
                period.changed = self._new_row()
            self._save()

    def lose(self) -> None:
        """Forget all ids, as when a disk was moved or restored without its tracking files."""
        with self._lock:
            self._periods.clear()
            self._save()

    def close(self) -> None:
        """Save the exact table and let the files go."""
        with self._lock:
            if self._coarse >= 0:
                self._save()
                os.close(self._coarse)
                self._coarse = -1

    def crash(self) -> None:
        """Let the files go as they are, as an unclean stop of the host does."""
        with self._lock:
            if self._coarse >= 0:
                os.close(self._coarse)
                self._coarse = -1

    # --- inside ----------------------------------------------------------------------------

    @property
    def _granules(self) -> int:
        return -(-self.size // self.granularity)

    def _new_row(self) -> bytearray:
        return bits.new_row(self._granules)

    def _set_region(self, row: bytearray, region: int) -> None:
        per_region = self.region // self.granularity
        first = region * per_region
        bits.set_range(row, first, min(per_region, self._granules - first), True)

    def _index(self, mark: str) -> int:
        if not _ID.fullmatch(mark):
            raise TrackingIdInvalid(f"{mark!r} is no change tracking id")
        for index, period in enumerate(self._periods):
            if period.mark == mark:
                return index
        if self._serial == 0:
            raise TrackingOff("no change of this disk is tracked")
        raise TrackingLost(f"nothing is known of {mark}")

    def _save(self) -> None:
        state = {
            "size": self.size,
            "granularity": self.granularity,
            "serial": self._serial,
            "periods": [
                {"mark": period.mark, "changed": base64.b64encode(zlib.compress(period.changed, 1)).decode()}
                for period in self._periods
            ],
        }
        temporary = self._path.with_name(self._path.name + ".new")
        temporary.write_text(json.dumps(state))
        temporary.replace(self._path)
        # A process killed between the two finds too much in the coarse file, never too little.
        os.ftruncate(self._coarse, 0)
        self._noted_regions.clear()

    def _load(self, state: dict[str, object]) -> None:
        self._serial = int(str(state["serial"]))
        if (state["size"], state["granularity"]) != (self.size, self.granularity):
            self._save()
            return
        periods = state["periods"]
        for period in periods if isinstance(periods, list) else []:
            changed = bytearray(zlib.decompress(base64.b64decode(period["changed"])))
            self._periods.append(_Period(str(period["mark"]), changed))
        coarse = os.pread(self._coarse, os.fstat(self._coarse).st_size, 0)
        regions = {int.from_bytes(coarse[at : at + 8], "little") for at in range(0, len(coarse) - 7, 8)}
        if self._periods and regions:
            for region in regions:
                self._set_region(self._periods[-1].changed, region)
            self._save()
