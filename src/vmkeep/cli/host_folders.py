"""Look into each folder that holds files of VMs, as a run would, and read a little of one file."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Final

from vmkeep.cli.host_verdicts import Check, confirmed, failed, skipped, unknown
from vmkeep.host.files.errors import (
    DialectUnsupported,
    FileInUse,
    HostFileError,
    HostUnreachable,
    LoginRefused,
    ProtectionImpossible,
)
from vmkeep.host.files.facts import FolderEntry
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.files.paths import FolderPlace, PathMap
from vmkeep.model.facts import VmFacts

_MOST_FOLDERS: Final = 100
_FILES_TRIED: Final = 4
_READ: Final = 4096
# After one of these, another folder of the same server would be refused in the same way, slowly.
_OF_THE_SERVER: Final = (HostUnreachable, LoginRefused, ProtectionImpossible, DialectUnsupported)

# How likely a file is to be readable now: nobody uses the first kind, a VM writes to the last.
_IDLE, _PARENT, _WRITTEN = range(3)
_FACTS: Final[Mapping[int, str]] = {
    _IDLE: "a file of a VM that does not run",
    _PARENT: "a parent of a running VM's disk",
    _WRITTEN: "a file of a running VM",
}


@dataclass
class Folder:
    """A folder of the host, the files known to lie in it by likelihood, and how names of others begin."""

    path: str
    files: dict[str, int] = field(default_factory=dict)
    stems: dict[str, int] = field(default_factory=dict)

    def candidates(self, entries: Iterable[FolderEntry]) -> list[tuple[str, int]]:
        """Return the files worth reading, likeliest first."""
        found = dict(self.files)
        for entry in entries:
            likely = [rank for stem, rank in self.stems.items() if entry.name.lower().startswith(stem)]
            if likely and not entry.is_folder and not entry.is_link:
                found[f"{self.path}\\{entry.name}"] = min(likely)
        return sorted(found.items(), key=lambda pair: pair[1])[:_FILES_TRIED]


def folders_of(vms: Iterable[VmFacts]) -> list[Folder]:
    """Return the folders of disks, of checkpoints' disks and of configurations, each once, by path."""
    found: dict[str, Folder] = {}

    def folder(path: str) -> Folder:
        return found.setdefault(path.lower(), Folder(path))

    for vm in vms:
        own = _IDLE if vm.state in {"off", "saved"} else _WRITTEN
        below = _IDLE if own == _IDLE else _PARENT
        leaves = {disk.path: own for disk in vm.disks if disk.path and disk.kind != "passthrough"}
        layers = {
            disk.path: below
            for checkpoint in vm.checkpoints
            for disk in checkpoint.disks
            if disk.path and disk.kind != "passthrough"
        }
        for path, rank in (layers | leaves).items():
            folder(path.rpartition("\\")[0]).files[path] = rank
        if vm.configuration is not None:
            folder(vm.configuration.folder.rstrip("\\")).stems[vm.configuration.stem.lower()] = own
    return [found[key] for key in sorted(found)]


def examine_folders(
    vms: Iterable[VmFacts], files: HostFiles, paths: PathMap, watch: Callable[[str], None]
) -> Iterator[Check]:
    """Yield what each folder shows: whether it is reached and listed, and whether a file in it is read."""
    folders = folders_of(vms)
    if not folders:
        yield skipped("files", "the files of the VMs can be read", "no VM has files")
    silent: dict[str, str] = {}
    for number, folder in enumerate(folders[:_MOST_FOLDERS], 1):
        watch(f"folder {number} of {min(len(folders), _MOST_FOLDERS)}")
        yield from _examine(f"folder-{number}", folder, files, paths, silent)
    if len(folders) > _MOST_FOLDERS:
        why = f"{len(folders) - _MOST_FOLDERS} more folders were not looked into"
        yield skipped("more-folders", "the other folders can be read", why)


def _examine(
    name: str, folder: Folder, files: HostFiles, paths: PathMap, silent: dict[str, str]
) -> Iterator[Check]:
    """Examine one folder; ``silent`` has the servers that refused all, and the check that found it."""
    reaching = "a folder of VM files is reached and listed"
    reading = "a file in it can be read"
    server: str | None = None
    try:
        place = paths.place(f"{folder.path}\\x")
        is_local = isinstance(place, FolderPlace)
        server = None if isinstance(place, FolderPlace) else f"{place.server}:{place.port}"
        if server in silent:
            why = f"its server was out of reach at {silent[server]}"
            yield _named(skipped(name, reaching, why), folder.path)
            return
        entries = files.list_folder(folder.path)
        protection = files.protection(folder.path)
    except HostFileError as error:
        if server is not None and isinstance(error, _OF_THE_SERVER):
            silent[server] = name
        yield _named(failed(name, reaching, error), folder.path)
        yield _named(skipped(f"{name}-read", reading, "the folder was not reached"), folder.path)
        return
    way = "a folder of this machine" if is_local else f"a share, protected by {protection}"
    beliefs = (61,) if not is_local and "\\clusterstorage\\" in folder.path.lower() else ()
    reached = confirmed(name, reaching, f"{way}; {len(entries)} entries", beliefs=beliefs)
    yield _named(reached, folder.path)
    yield _named(_read_one(f"{name}-read", reading, folder, entries, files, is_local=is_local), folder.path)


def _read_one(
    name: str,
    means: str,
    folder: Folder,
    entries: Iterable[FolderEntry],
    files: HostFiles,
    *,
    is_local: bool,
) -> Check:
    """Read the beginning of the first file that lets itself be read."""
    held = 0
    for path, rank in folder.candidates(entries):
        try:
            with closing(files.open(path)) as file:
                got = file.read_into(0, memoryview(bytearray(_READ)))
        except FileInUse:
            held += 1  # a running VM may hold its file; that says nothing about rights
        except HostFileError as error:
            return failed(name, means, error)
        else:
            beliefs = (60,) if rank == _PARENT and not is_local else ()
            return confirmed(name, means, f"{got} bytes of {_FACTS[rank]}", beliefs=beliefs)
    if held:
        return unknown(
            name,
            means,
            f"{held} files are held by running VMs",
            hint="That is how it should be. Parents of a checkpoint are read, and there is none here.",
            needed=False,
        )
    return unknown(name, means, "no file of a VM was found in it", needed=False)


def _named(check: Check, path: str) -> Check:
    """Have the check say, on this screen only, which folder it is about."""
    return replace(check, subject=path)
