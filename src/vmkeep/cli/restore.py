"""`vmkeep restore`: bring disks and files back."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vmkeep.cli.frame import (
    AcceptRollback,
    AsJson,
    PasswordCommand,
    PasswordFile,
    PointArgument,
    RepositoryOption,
    announce,
    open_repository,
    progress,
    settings,
    warn,
)
from vmkeep.cli.text import rounded
from vmkeep.errors import UsageError

if TYPE_CHECKING:
    from vmkeep.restore.files import RestoredFile


class DiskFormat(StrEnum):
    """The disk file formats that can be written."""

    vhdx = "vhdx"
    vhd = "vhd"
    raw = "raw"


def restore(
    point: PointArgument,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="DIR|FILE|-",
            help="A folder (made if missing), a file (one disk) if the name has an ending, or - for standard "
            "output (one raw disk).",
        ),
    ],
    repo: RepositoryOption = "",
    format: Annotated[
        DiskFormat | None,
        typer.Option("--format", case_sensitive=False, help="Disk file format; default: as the source was."),
    ] = None,
    disk: Annotated[
        str | None,
        typer.Option(
            "--disk",
            metavar="N",
            help="Only this disk: its number (from 0), its name, or its file's name or path in the source.",
        ),
    ] = None,
    accept_rollback: AcceptRollback = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    as_json: AsJson = False,
) -> None:
    """Write a restore point's disks into new files; every byte is verified on the way.

    Existing files are never overwritten, and no file has its name before it is complete. Start an
    interrupted restore again as it was: files that are there and identical are kept.
    Exit codes: 0 restored; 1 failed; 2 name and format contradict each other; 10 no repository;
    12 wrong password; 14 stored data is damaged.
    """
    if not to:
        raise UsageError("--to needs a folder, a file, or -.", hint="Write . for the current folder.")
    with open_repository(
        repo, password_file, password_command, meanwhile="vmkeep.restore.files"
    ) as repository:
        from vmkeep.restore.errors import OneDiskNeeded
        from vmkeep.restore.files import restore_point, stream_disk
        from vmkeep.restore.layout import choose_disks

        listing = repository.listing(accept_rollback=accept_rollback)
        sealed = listing.find(point)
        chosen = sealed.point
        for gap in listing.gaps_beside(sealed):
            warn(gap.message)
        if to == "-":
            if format not in (None, DiskFormat.raw) or as_json:
                raise UsageError("standard output takes one raw disk, and nothing else.")
            if sys.stdout is None:
                raise UsageError("standard output is closed.", hint="Give a file or a folder with --to.")
            disks = choose_disks(chosen, disk)
            if len(disks) != 1:
                raise OneDiskNeeded(f"the restore point has {len(disks)} disks; standard output takes one.")
            stream_disk(repository, disks[0], sys.stdout.buffer, progress())
            return
        written = restore_point(
            repository,
            chosen,
            Path(to),
            format.value if format else None,
            disk,
            progress(),
            as_folder=to.endswith(("/", os.sep)),
        )
    document = {
        "message_type": "summary",
        "point": chosen.id,
        "vm": chosen.vm.name,
        "files": [vars(w) for w in written],
    }
    lines = [f"{file.path}  ({file.format}, {rounded(file.size)}){_remark(file)}" for file in written]
    announce(document, [] if settings.quiet else lines, "everything is restored")


def _remark(file: "RestoredFile") -> str:
    lost = f"; not kept: {', '.join(file.lost).replace('_', ' ')}" if file.lost else ""
    return lost + ("; kept: identical" if file.kept else "")
