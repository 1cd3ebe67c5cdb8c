"""Find the volume of the host that holds a path, and what is free there."""

from collections.abc import Iterable, Mapping


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
