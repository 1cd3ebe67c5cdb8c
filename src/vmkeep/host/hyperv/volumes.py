"""Find the volume of the host that holds a path, and what is free there."""

from collections.abc import Callable, Iterable, Mapping

from vmkeep.host.hyperv.classes import LOGICAL_DISK, VOLUME
from vmkeep.host.hyperv.jobs import HyperV, outlast
from vmkeep.host.wsman import Instance


def volume_of(path: str, volumes: Iterable[str]) -> str | None:
    r"""Return the mount point that holds a path: the longest it begins with, ``C:\ClusterStorage\A\`` say."""
    folded = path.lower()
    found = [name for name in volumes if name and folded.startswith(name.lower())]
    return max(found, key=len, default=None)


def least_free(paths: Iterable[str], free: Mapping[str, int]) -> int | None:
    """Return the free bytes of the fullest volume that holds one of the paths; None unless all are known."""
    places = [volume_of(path, free) for path in paths]
    known = [free[place] for place in places if place is not None]
    return min(known) if known and len(known) == len(places) else None


def share_a_volume(left: Iterable[str], right: Iterable[str], volumes: Iterable[str]) -> bool | None:
    """Tell whether all paths of both lists lie on one volume; None unless all are known and none is empty."""
    names = list(volumes)
    ours, theirs = ({volume_of(path, names) for path in paths} for paths in (left, right))
    if not ours or not theirs or None in ours | theirs:
        return None
    return len(ours | theirs) == 1


def free_bytes(volumes: Iterable[Instance], drives: Callable[[], Iterable[Instance]]) -> dict[str, int]:
    """Return the free bytes by mount point: of volumes, or of drives where no volumes are listed."""
    found = {row.text_or_none("Name"): row.integer_or_none("FreeSpace") for row in volumes}
    if not found:
        found = {f"{row.text('DeviceID')}\\": row.integer_or_none("FreeSpace") for row in drives()}
    return {name: free for name, free in found.items() if name and free is not None}


def read_free_bytes(host: HyperV, paths: Iterable[str]) -> int | None:
    """Ask for what is free now on the fullest volume that holds one of the paths: one request, or two.

    None where the host does not tell. Safe to repeat.
    """
    volumes = outlast(host, lambda: list(VOLUME.all(host.client)))
    return least_free(
        paths, free_bytes(volumes, lambda: outlast(host, lambda: list(LOGICAL_DISK.all(host.client))))
    )
