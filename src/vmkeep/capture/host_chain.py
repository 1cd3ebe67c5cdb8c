"""Open the frozen disks and configuration files of a checkpoint over the host's files."""

import ntpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vmkeep.capture.errors import NothingFrozen
from vmkeep.capture.folder import HeldDisk, HeldFile, safe_name
from vmkeep.capture.source import readable
from vmkeep.formats.disk import Disk
from vmkeep.formats.opening import open_files
from vmkeep.formats.source import Source
from vmkeep.host.files.facts import FileIdentity, Reader
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.hyperv import DiskFile, HyperV, detailed, read_disk_file
from vmkeep.model.consistency import Reason
from vmkeep.model.facts import CheckpointFacts, DiskFacts
from vmkeep.ranges import ByteRange

# Where a VHDX has its two headers ([MS-VHDX] 2.2): they change before anything else in the file does.
_HEADERS: Final = ((64 << 10, 4096), (128 << 10, 4096))
_DEEPEST_CHAIN: Final = 128  # Hyper-V allows 50 checkpoints
_ROLES: Final = {".vmcx": "configuration", ".vmgs": "guest-state", ".vmrs": "runtime-state"}


def headers(read: Reader) -> bytes:
    """Read what proves that a reopened disk file is the one it was."""
    return b"".join(read(offset, length) for offset, length in _HEADERS)


class ChainFiles:
    """The files of chains as the host names them; :class:`vmkeep.formats.files.Files`."""

    def __init__(self, files: HostFiles, names: Sequence[str]) -> None:
        self._files = files
        self.names: Sequence[str] = tuple(dict.fromkeys(names))

    def open(self, name: str) -> Source:
        return self._files.open(name, proof=headers)

    def base(self, name: str) -> str:
        return ntpath.basename(name)

    def place(self, path: str, child: str | None = None) -> str:
        folder = ntpath.dirname(child) if child is not None else ""
        path = path.removeprefix("\\\\?\\")  # how children write absolute places ([MS-VHDX] 2.6.2.6.3)
        return ntpath.normpath(ntpath.join(folder, path)).lower()

    def one_file(self, name: str) -> str:
        # Links on the host are refused when a file is opened.
        return self.place(name)


@dataclass(frozen=True)
class FrozenDisk(HeldDisk):
    """One disk of a held VM, standing still.

    ``changed``: the range list of what may differ from the previous restore
    point; None where all of it has to be read, and ``why_all`` says why.
    """

    facts: DiskFacts
    changed: tuple[ByteRange, ...] | None = None
    why_all: Reason | None = None


def open_frozen(host: HyperV, files: HostFiles, checkpoint: CheckpointFacts) -> list[FrozenDisk]:
    """Open each disk of a checkpoint that has a file, with its whole chain.

    The host says of each file what it is and which is its parent, a request each;
    only these are opened. Raises FormatError, HostFileError, HyperVError and
    NothingFrozen; nothing stays open then.
    """
    leaves, facts, names = [], [], []
    for disk in checkpoint.disks:
        if disk.path is not None and disk.kind != "passthrough":
            chain = _chain(host, disk.path)
            leaves.append(disk.path)
            facts.append(detailed(disk, chain[0]))
            names += [file.path for file in chain]
    if not leaves:
        raise NothingFrozen(f"no disk of the checkpoint {checkpoint.name!r} lies in a file.")
    disks = open_files(leaves, ChainFiles(files, names))
    return [
        FrozenDisk(name, readable(leaf), disk, each)
        for name, leaf, disk, each in zip(_names(disks, facts), leaves, disks, facts, strict=True)
    ]


def _chain(host: HyperV, leaf: str) -> list[DiskFile]:
    """Return a disk's file and its parents, as the host knows them."""
    chain = [read_disk_file(host, leaf)]
    while (parent := chain[-1].parent_path) is not None and len(chain) < _DEEPEST_CHAIN:
        chain.append(read_disk_file(host, parent))
    return chain


def _names(disks: Sequence[Disk], facts: Sequence[DiskFacts]) -> list[str]:
    """Name each disk by its lowest file, which no checkpoint renames; of two alike, by the place, too."""
    stems = [ntpath.splitext(ntpath.basename(disk.chain()[-1].name))[0] for disk in disks]
    alike = [stem.lower() for stem in stems]
    return [
        safe_name(readable(stem if alike.count(stem.lower()) == 1 else f"{stem}-{_word(disk.label)}"))
        for stem, disk in zip(stems, facts, strict=True)
    ]


def _word(label: str) -> str:
    return label.replace(" ", "").replace(":", "-")


def open_configuration(files: HostFiles, checkpoint: CheckpointFacts) -> list[HeldFile]:
    """Open the configuration files of a checkpoint: all of its stem. Raises HostFileError."""
    place = checkpoint.configuration
    if place is None:
        return []
    held: list[HeldFile] = []
    folder = ntpath.basename(place.folder)
    try:
        for entry in files.list_folder(place.folder):
            stem, suffix = ntpath.splitext(entry.name)
            role = _ROLES.get(suffix.lower())
            if role and stem.lower() == place.stem.lower() and not (entry.is_folder or entry.is_link):
                source = files.open(ntpath.join(place.folder, entry.name))
                held.append(HeldFile(safe_name(readable(f"{folder}/{entry.name}")), role, source))
    except BaseException:
        for file in held:
            file.source.close()
        raise
    return held


def identities(disks: Sequence[HeldDisk], files: Sequence[HeldFile]) -> Mapping[str, object]:
    """Ask anew what tells each file from any other and from itself before a write, by the host's name for it.

    File number, size, time of the last write, and both headers or the footer. The
    time alone proves little, since a server may show an old one while a file is
    open; the time of the last change of its record moves without a write (believed.md 69), so a
    write that puts the time of the last write back is left to the audit.
    """
    found: dict[str, object] = {}
    for held in disks:
        layers = (layer.name for layer in held.disk.chain())
        for name, identity in zip(layers, held.disk.identity(), strict=True):
            found[name] = _weighed(identity)
    for file in files:
        found[file.source.name] = _weighed(file.source.identity())
    return found


def _weighed(identity: object) -> object:
    if isinstance(identity, FileIdentity):
        return identity[:4]
    return tuple(_weighed(part) for part in identity) if isinstance(identity, tuple) else identity
