"""Map the paths a Windows host knows to files below the lab's state folder."""

import re
from pathlib import Path, PureWindowsPath
from typing import Final

from vmkeep_lab.cim import WBEM_E_INVALID_PARAMETER, WmiError

FILES: Final = "files"
_DRIVE: Final = re.compile(r"[A-Za-z]:\\")


class Places:
    """Where the host's files really lie: ``C:\\VMs\\a.vhdx`` is ``files/C/VMs/a.vhdx``.

    Names are compared as Windows does, without case; the first spelling stays. A path that would leave the
    folder is refused.
    """

    def __init__(self, state_folder: Path) -> None:
        self.root: Final = state_folder / FILES

    def real(self, path: str) -> Path:
        """Return the real file for a host's path, which need not exist."""
        if not _DRIVE.match(path):
            raise WmiError(WBEM_E_INVALID_PARAMETER, f"not an absolute path: {path!r}")
        place = self.root / path[0].upper()
        for part in PureWindowsPath(path).parts[1:]:
            if part in (".", "..") or "/" in part or "\0" in part:
                raise WmiError(WBEM_E_INVALID_PARAMETER, f"not a plain path: {path!r}")
            place = _same_name(place, part)
        return place

    def drive(self, letter: str) -> Path:
        """Return the folder of a drive, made if it is not there."""
        folder = self.root / letter
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _same_name(folder: Path, name: str) -> Path:
    """Return the entry whose name equals without case, or the name as it is."""
    exact = folder / name
    if exact.exists() or not folder.is_dir():
        return exact
    return next((each for each in folder.iterdir() if each.name.lower() == name.lower()), exact)


def stem_of(path: str) -> str:
    """Return the base name of a disk file without the checkpoint's id and the suffix.

    ``a.vhdx`` and ``a_7F...D2.avhdx`` both give ``a``, the way Hyper-V names the layers of a disk.
    """
    return re.sub(r"_[0-9A-Fa-f-]{36}$", "", PureWindowsPath(path).stem)


def folder_of(path: str) -> str:
    """Return the folder of a host's path."""
    return str(PureWindowsPath(path).parent)
