"""The disk files of the host's VMs: opened when first touched, made when they do not exist yet."""

from pathlib import Path
from typing import Final, Literal
from uuid import UUID

from vmkeep_lab.disks import Area, ChangeTracker, GuestWriter, VirtualDisk, fill, image, load_image
from vmkeep_lab.host import layers
from vmkeep_lab.host.places import Places
from vmkeep_lab.host.state import Disk


class Media:
    """Real files behind the disks of the state. Only one thread at a time may be inside."""

    def __init__(self, places: Places) -> None:
        self._places: Final = places
        self._open: dict[str, VirtualDisk] = {}

    def disk(self, disk: Disk) -> VirtualDisk:
        """Return a disk, opened; one that no file exists of is made and filled with what it holds."""
        found = self._open.get(disk.disk_id)
        if found is None:
            base = self._places.real(disk.layers[0].path)
            found = self._reopen(disk) if base.exists() else self._make(disk, base)
            tracker = ChangeTracker.open(base.with_name(f"{base.name}.rct"), disk.size, seed=disk.disk_id)
            found.tracker = tracker
            self._open[disk.disk_id] = found
        return found

    def exists(self, disk: Disk) -> bool:
        """Tell whether the disk's files have been made."""
        return self._places.real(disk.layers[0].path).exists()

    def _make(self, disk: Disk, base: Path) -> VirtualDisk:
        base.parent.mkdir(parents=True, exist_ok=True)
        kind: Literal["dynamic", "fixed"] = "fixed" if disk.fixed else "dynamic"
        made = VirtualDisk.create(base, disk.size, kind=kind, disk_id=UUID(disk.disk_id), seed=disk.disk_id)
        if disk.image:
            with image(disk.image).opened() as content:
                load_image(made, content)
        fill(_written_part(made, disk), disk.seed, disk.used)
        return made

    def _reopen(self, disk: Disk) -> VirtualDisk:
        tops = [each.path for each in disk.layers if not layers.children(disk, each.path)]
        others = [self._places.real(each) for each in tops if each != disk.leaf]
        return VirtualDisk.open(self._places.real(disk.leaf), others=others, seed=disk.disk_id)

    def write(self, disk: Disk, count: int) -> None:
        """Let the guest do some of its actions on a disk."""
        part = _written_part(self.disk(disk), disk)
        writer = GuestWriter(part, f"{disk.disk_id}/{disk.seed}", disk.writes)
        writer.step(count)
        disk.writes = writer.position

    def freeze(self, disk: Disk, new: str) -> None:
        """Put a new file on top of the leaf.

        A file of that name was left by a lab that was killed in the middle of this: nobody knows it.
        """
        place = self._places.real(new)
        place.unlink(missing_ok=True)
        self.disk(disk).checkpoint(place, host_path=disk.leaf)

    def revert(self, disk: Disk, to: str, new: str) -> None:
        """Go on in a new file above a frozen one; change tracking lies from now on."""
        opened = self.disk(disk)
        opened.revert(self._places.real(to), self._places.real(new), host_path=to)
        self._tracker(disk).lie_after_revert()

    def merge(self, disk: Disk, child: str) -> None:
        """Merge a file into the one below it; the file is gone then."""
        self.disk(disk).merge(self._places.real(child))

    def delete(self, disk: Disk, path: str) -> None:
        """Delete a file that nothing stands on."""
        self.disk(disk).discard(self._places.real(path))

    def sha256(self, disk: Disk, path: str) -> str:
        """Return the digest of what the guest sees through a file and those below it."""
        return self.disk(disk).sha256(at=self._places.real(path))

    def rest(self, disk: Disk) -> None:
        """Leave a disk's files clean and let go of them."""
        found = self._open.pop(disk.disk_id, None)
        if found:
            found.close()

    def close(self) -> None:
        """Leave all files clean."""
        while self._open:
            self._open.popitem()[1].close()

    def crash(self) -> None:
        """Let all files go as a host does that loses its power; change tracking is coarse afterwards."""
        while self._open:
            self._open.popitem()[1].crash()

    def is_open(self, disk: Disk) -> bool:
        """Tell whether a disk's files are open."""
        return disk.disk_id in self._open

    # --- change tracking -----------------------------------------------------------------

    def mark(self, disk: Disk) -> str:
        """Return the RCT id of this instant; the first one switches tracking on."""
        return self._tracker(disk).mark()

    def forget(self, disk: Disk, rct_id: str) -> None:
        """Let an RCT id go; one that tracking has lost already is gone."""
        tracker = self._tracker(disk)
        if rct_id in tracker.marks:
            tracker.forget(rct_id)

    def changes(
        self, disk: Disk, since: str, offset: int, length: int, most_ranges: int
    ) -> tuple[list[tuple[int, int]], int]:
        """Return the ranges changed since an id within a window, and how much of it they cover.

        For a frozen file the answer holds what was written since the freeze, too: more than needed, never
        less. What a real host answers there nobody has seen.
        """
        return self._tracker(disk).changes(since, offset, length, most_ranges)

    def make_coarse(self, disk: Disk) -> None:
        """Let change tracking answer as after an unclean stop of the host."""
        self._tracker(disk).mrt_mode()

    def lose_tracking(self, disk: Disk) -> None:
        """Forget every RCT id of a disk."""
        self._tracker(disk).lose()

    def _tracker(self, disk: Disk) -> ChangeTracker:
        tracker = self.disk(disk).tracker
        if tracker is None:
            raise LookupError(disk.disk_id)
        return tracker


def _written_part(opened: VirtualDisk, disk: Disk) -> VirtualDisk | Area:
    """Return what the guest writes of a disk: all of it, or the one file that its image keeps for that."""
    if not disk.image:
        return opened
    known = image(disk.image)
    return Area(opened, known.work_start, known.work_size)
