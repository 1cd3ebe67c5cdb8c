"""Recognise a disk file and open it with its parents, or say what it is instead.

A name and a content that contradict each other are refused: the guest decides
what stands in a raw or fixed disk, and could make it look like another format.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from vmkeep.formats.disk import Disk, Format
from vmkeep.formats.errors import CorruptDisk, FormatError, NotADisk, UnsupportedDisk
from vmkeep.formats.files import Files, LocalFiles
from vmkeep.formats.parents import ParentReference
from vmkeep.formats.raw import open_raw
from vmkeep.formats.source import Source, read_at
from vmkeep.formats.target_folder import PARTIAL_SUFFIX
from vmkeep.formats.vhd import open_vhd, refuse_vhd_remains
from vmkeep.formats.vhdx import LogAllowance, VhdxDisk, open_vhdx, refuse_vhdx_remains

# Hyper-V makes 50 checkpoints.
_DEEPEST_CHAIN: Final = 64
# Files that name each other in many ways would otherwise be tried in every order.
_MOST_OPENED: Final = 256

_FORMAT_OF_SUFFIX: Final[dict[str, Format]] = {
    ".vhdx": "vhdx",
    ".avhdx": "vhdx",
    ".vhd": "vhd",
    ".avhd": "vhd",
    ".raw": "raw",
    ".img": "raw",
    ".dd": "raw",
}
_TITLES: Final[dict[Format, str]] = {"vhdx": "VHDX", "vhd": "VHD", "raw": "raw disk"}

_NO_DISKS: Final = {
    ".rct": "a change tracking file of the Hyper-V host, not a disk",
    ".mrt": "a change tracking file of the Hyper-V host, not a disk",
    ".vmcx": "the configuration of a virtual machine, not a disk",
    ".vmrs": "the state of a virtual machine, not a disk",
    ".vmgs": "the firmware state of a virtual machine, not a disk",
    ".vsv": "the saved state of a virtual machine, not a disk",
    PARTIAL_SUFFIX: "an unfinished file of a restore that was interrupted, not a disk",
}

# offset, bytes there, what the file is
_CONTAINERS: Final = (
    (0, b"QFI\xfb", "a qcow image"),
    (0, b"QED\0", "a QED image"),
    (0, b"KDMV", "a VMDK disk"),
    (0, b"COWD", "a VMDK disk"),
    (0, b"# Disk DescriptorFile", "the descriptor of a VMDK disk"),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI disk"),
    (0, b"WithoutFreeSpace", "a Parallels disk"),
    (0, b"WithouFreSpacExt", "a Parallels disk"),
)
# A raw disk may hold these by right (a disk written from a hybrid ISO): refused only without a raw name.
_NO_CONTAINERS: Final = (
    (0x8001, b"CD001", "an ISO 9660 image"),
    (0, b"\x1f\x8b\x08", "a compressed file (gzip)"),
    (0, b"\xfd7zXZ\0", "a compressed file (xz)"),
    (0, b"\x28\xb5\x2f\xfd", "a compressed file (zstd)"),
    (0, b"BZh", "a compressed file (bzip2)"),
    (0, b"PK\x03\x04", "a compressed file (zip)"),
    (0, b"7z\xbc\xaf\x27\x1c", "a compressed file (7z)"),
)
_FOREIGN_SUFFIXES: Final = {
    ".qcow2": "qcow2",
    ".qcow": "qcow",
    ".qed": "QED",
    ".vmdk": "VMDK",
    ".vdi": "VDI",
    ".hdd": "Parallels",
    ".iso": "ISO",
}


def open_path(path: Path, *, siblings: Sequence[Path] = (), complete: bool = True) -> Disk:
    """Open the disk file at ``path``; parents are looked for among ``siblings`` only.

    A chain that need not be ``complete`` may end where a parent is missing
    (:meth:`Disk.missing_parent`). Raises ``FormatError``; nothing stays open then.
    """
    return open_paths([path], siblings=siblings, complete=complete)[0]


def open_paths(paths: Sequence[Path], *, siblings: Sequence[Path], complete: bool = True) -> list[Disk]:
    """Open several disk files, each with its chain; a file that is in several chains is opened once.

    Each disk is closed by itself: what it shares stays open for the others.
    Raises ``FormatError``; nothing stays open then.
    """
    return open_files([str(path) for path in paths], LocalFiles(siblings), complete=complete)


def open_files(names: Sequence[str], files: Files, *, complete: bool = True) -> list[Disk]:
    """Open several disk files of any machine, as :func:`open_paths` does those of this one.

    Raises ``FormatError`` and what ``files`` raises; nothing stays open then.
    """
    disks: list[Disk] = []
    with _Opening(files, complete) as opening:
        try:
            for name in names:
                disk = opening.open_file(name, raw_allowed=True)
                disks.append(disk)
        except BaseException:
            for disk in disks:
                disk.close()
            raise
    return disks


def open_disk(source: Source, *, siblings: Sequence[Path] = (), raw_allowed: bool = True) -> Disk:
    """Open the disk in ``source``, which the disk then owns; after an error the caller still does.

    ``siblings`` are the only files that may be opened as parents: chosen by
    their base names and by the identity the child asks for, never by a path
    that stands in the file.
    """
    with _Opening(LocalFiles(siblings)) as opening:
        return opening.open_source(source, raw_allowed=raw_allowed)


class _Opening:
    """One attempt to open disks with their chains: knows which files were opened on the way.

    Shares every disk it opened until the ``with`` block ends, so that no file
    is opened and examined twice.
    """

    def __init__(self, files: Files, complete: bool = True) -> None:
        self._files = files
        self._complete = complete
        self._trail: list[str] = []
        self._opened = 0
        self._kept: dict[str, Disk] = {}
        self._allowance = LogAllowance()

    def __enter__(self) -> "_Opening":
        return self

    def __exit__(self, *exc: object) -> None:
        for disk in self._kept.values():
            disk.close()

    def open_file(self, name: str, *, raw_allowed: bool) -> Disk:
        kept = self._kept.get(name)
        if kept is not None:
            return kept.share()
        if not self._trail:
            self._opened = 0
        source = self._files.open(name)
        try:
            disk = self.open_source(source, raw_allowed=raw_allowed)
        except BaseException:
            source.close()
            raise
        if disk.profile.format != "raw":  # a raw disk is nobody's parent
            self._kept[name] = disk.share()
        return disk

    def open_source(self, source: Source, *, raw_allowed: bool) -> Disk:
        self._opened += 1
        self._trail.append(self._files.one_file(source.name))
        try:
            match recognise(source, raw_allowed=raw_allowed):
                case "vhdx":
                    return open_vhdx(
                        source, self._find_parent, complete=self._complete, allowance=self._allowance
                    )
                case "vhd":
                    return open_vhd(source, self._find_parent, complete=self._complete)
                case "raw":
                    return open_raw(source)
        finally:
            self._trail.pop()

    def _find_parent(self, reference: ParentReference) -> Disk | None:
        named = self._named(reference)
        if not named:
            return None
        fresh = [name for name in named if self._files.one_file(name) not in self._trail]
        if not fresh:
            raise CorruptDisk(
                f"{reference.child!r} names {self._files.base(named[0])!r} as its parent, "
                "which is its child already.",
                file=reference.child,
            )
        if len(self._trail) >= _DEEPEST_CHAIN:
            raise _too_many(reference, _TOO_DEEP)
        if self._opened >= _MOST_OPENED:
            raise _too_many(reference, "the files around {} name too many parents.")
        if len(fresh) == 1:
            disk = self.open_file(fresh[0], raw_allowed=False)
        else:
            disk = self._choose(fresh, reference)
        if len(self._trail) + len(disk.chain()) > _DEEPEST_CHAIN:
            disk.close()
            raise _too_many(reference, _TOO_DEEP)
        return disk

    def _named(self, reference: ParentReference) -> list[str]:
        """Return the allowed files that carry one of the parent's names; most useful first."""
        bases = {name: self._files.base(name) for name in self._files.names}
        found: list[str] = []
        for base in reference.base_names():
            same = [name for name, own in bases.items() if own == base]
            if not same:
                alike = [name for name, own in bases.items() if own.casefold() == base.casefold()]
                same = alike if len(alike) == 1 else []
            found += same
        return list(dict.fromkeys(found))

    def _choose(self, names: list[str], reference: ParentReference) -> Disk:
        """Open the one of several that is the parent.

        Copies of one VM carry the same identities and not always the same bytes,
        so among several parents the one that the child's place points to is taken.
        """
        opened: dict[str, Disk] = {}
        failures: dict[str, FormatError] = {}
        for name in names:
            try:
                opened[name] = self.open_file(name, raw_allowed=False)
            except FormatError as error:
                failures[name] = error
        chosen = None
        try:
            chosen = _chosen(self._files, opened, failures, reference)
        finally:
            for name, disk in opened.items():
                if name != chosen:
                    disk.close()
        return opened[chosen]


def _chosen(
    files: Files, opened: dict[str, Disk], failures: dict[str, FormatError], reference: ParentReference
) -> str:
    parents = [name for name, disk in opened.items() if _carries(disk, reference)]
    # What could not be opened may be the parent, too: another file must not quietly take its place.
    meant = _meant(files, [*parents, *failures], reference)
    if not opened:
        raise failures[meant] if meant is not None else next(iter(failures.values()))
    if meant is not None:
        if meant in failures:
            raise failures[meant]
        return meant
    if len(parents) > 1:
        raise UnsupportedDisk(
            f"{parents[0]!r} and {parents[1]!r} both say that they are the parent of {reference.child!r}.",
            file=reference.child,
            hint="Give each copy of a VM a folder of its own, with the disks and their checkpoints together.",
        )
    return parents[0] if parents else next(iter(opened))


def _meant(files: Files, names: Sequence[str], reference: ParentReference) -> str | None:
    """Return the file to which a path in the child leads, else the only one beside the child."""
    child = reference.child
    for candidate in reference.candidates:
        place = files.place(candidate, child)
        for name in names:
            if files.place(name) == place:
                return name
    beside = [name for name in names if files.place(files.base(name), child) == files.place(name)]
    return beside[0] if len(beside) == 1 else None


_TOO_DEEP: Final = f"the chain of {{}} is longer than {_DEEPEST_CHAIN} files."


def _too_many(reference: ParentReference, sentence: str) -> UnsupportedDisk:
    return UnsupportedDisk(
        sentence.format(repr(reference.child)),
        file=reference.child,
        hint="Merge checkpoints on the host first.",
    )


def _carries(disk: Disk, reference: ParentReference) -> bool:
    """Tell whether the disk carries an identity the child asks for."""
    if disk.profile.format != reference.required_format:
        return False
    identity = disk.data_write_guid if isinstance(disk, VhdxDisk) else disk.profile.disk_id
    return identity in reference.identities


def recognise(source: Source, *, raw_allowed: bool = True) -> Format:
    """Name the format of a file by its content and its name, or refuse it by the name of what it is."""
    name, size = source.name, source.size()
    suffix = _suffix(name)
    if suffix in _NO_DISKS:
        raise NotADisk(f"{name!r} is {_NO_DISKS[suffix]}.", file=name)
    if suffix == ".vhds":
        raise UnsupportedDisk(
            f"{name!r} is a VHD Set, an index over .avhdx files in a format that is not published.",
            file=name, hint="Give the .avhdx files that belong to it.",
        )  # fmt: skip
    if size == 0:
        raise NotADisk(f"{name!r} is empty.", file=name)
    expected = format_of_name(name)
    claimed = _claimed(source, size, expected)
    if expected in ("vhdx", "vhd"):
        return _require(expected, claimed, source)
    foreign = _foreign(source, _CONTAINERS if expected == "raw" else _CONTAINERS + _NO_CONTAINERS)
    if expected == "raw" and claimed:
        raise UnsupportedDisk(
            f"{name!r} is named like a raw disk but looks like {_TITLES[claimed[0]]}.",
            file=name, hint="Name it after the format it really has; a guest can write what it looks like.",
        )  # fmt: skip
    if len(claimed) > 1:
        raise UnsupportedDisk(
            f"{name!r} looks like VHDX and VHD at once.",
            file=name,
            hint="Name it after the format it really has.",
        )
    if claimed:
        return claimed[0]
    if foreign:
        raise UnsupportedDisk(f"{name!r} is {foreign}; vmkeep reads VHD, VHDX and raw disks.", file=name)
    if suffix in _FOREIGN_SUFFIXES:
        raise NotADisk(f"{name!r} is named like a {_FOREIGN_SUFFIXES[suffix]} file.", file=name)
    if not raw_allowed:
        raise NotADisk(f"{name!r} is neither VHD nor VHDX.", file=name)
    return "raw"


def disk_in_disguise(source: Source) -> str | None:
    """Say which disk the content of a file shows, whatever its name; None where it shows none.

    Reads a few hundred bytes. A file that Hyper-V names in a way of its own is what its name says.
    """
    if _suffix(source.name) in _NO_DISKS:
        return None
    claimed = _claimed(source, source.size(), None)
    if claimed:
        return f"a {_TITLES[claimed[0]]} disk"
    return _foreign(source, _CONTAINERS)


def format_of_name(name: str) -> Format | None:
    """Return the format that the file's extension promises, None where it promises none."""
    return _FORMAT_OF_SUFFIX.get(_suffix(name))


def contradicted(name: str, format: Format) -> str | None:
    """Say what a name makes of a file that is a disk of this format; None where they get along.

    Nobody would open such a file as what it is, :func:`recognise` included.
    """
    suffix = _suffix(name)
    promised = format_of_name(name)
    if promised is not None:
        return None if promised == format else f"a {_TITLES[promised]}"
    if suffix in _FOREIGN_SUFFIXES:
        return f"a {_FOREIGN_SUFFIXES[suffix]} file"
    return _NO_DISKS.get(suffix)


def _suffix(name: str) -> str:
    base = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, extension = base.rpartition(".")
    return f".{extension.lower()}" if dot and stem else ""


def _claimed(source: Source, size: int, expected: Format | None) -> list[Format]:
    """Return which of our formats the content claims, the more certain one first."""
    claimed: list[Format] = []
    start = read_at(source, 0, 8)
    if start == b"vhdxfile":
        if expected == "vhdx":
            return ["vhdx"]  # name and content agree: a slow source is asked no more
        claimed.append("vhdx")
    end = read_at(source, max(size - 512, 0), 512)
    # The last footer byte was not written by very old programs.
    if start == b"conectix" or b"conectix" in (end[:8], end[1:9]):
        claimed.append("vhd")
    return claimed


def _require(expected: Format, claimed: list[Format], source: Source) -> Format:
    if expected in claimed:
        return expected
    if not claimed:
        refuse_remains = {"vhdx": refuse_vhdx_remains, "vhd": refuse_vhd_remains}[expected]
        refuse_remains(source)
    looks = f"it looks like {_TITLES[claimed[0]]}" if claimed else "it is damaged, cut, or something else"
    raise NotADisk(
        f"{source.name!r} is named like a {_TITLES[expected]} file but does not have its signature: {looks}.",
        file=source.name,
        offset=0,
    )


def _foreign(source: Source, signatures: Sequence[tuple[int, bytes, str]]) -> str | None:
    for offset, signature, title in signatures:
        if read_at(source, offset, len(signature)) == signature:
            return title
    return None
