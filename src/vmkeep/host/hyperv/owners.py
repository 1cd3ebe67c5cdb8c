"""Mark a checkpoint as ours, and recognise the mark: who made it, for which repository, in which run."""

import re
from dataclasses import dataclass
from typing import Final, Self

# Both ids are hexadecimal digits or a GUID; a name that a person or another program gave has other words.
_NAME: Final = re.compile(r"vmkeep ([0-9a-f][0-9a-f-]{7,63}) ([0-9a-f][0-9a-f-]{7,63})", re.ASCII)

# What stands in the repository's place in the mark of a probe (`vmkeep hosts check --probe`), which has no
# repository. Ids of repositories are random: none has it, so no run takes a probe's checkpoint for its own.
PROBES: Final = "0" * 32


@dataclass(frozen=True)
class Owner:
    """The run of one repository that a checkpoint belongs to; ids in lower case."""

    repository: str
    run: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} cannot mark a checkpoint")

    @property
    def name(self) -> str:
        """The checkpoint's name: what Hyper-V shows."""
        return f"vmkeep {self.repository} {self.run}"

    @property
    def notes(self) -> tuple[str, ...]:
        """The checkpoint's notes, for whoever finds it: who made it, how it goes away."""
        made_for = f"run {self.run} of repository {self.repository}; removed when the run ends"
        otherwise = "no such run is under way: vmkeep sweep hyperv://HOST --repo REPOSITORY removes it"
        if self.repository == PROBES:
            made_for = f"probe {self.run} of `vmkeep hosts check`; removed when the probe ends"
            otherwise = "no probe is under way: the next one from the same machine removes it"
        return (
            f"Made by vmkeep for {made_for}. If {otherwise}, or in "
            "PowerShell: Get-VMCheckpoint -VMName NAME -SnapshotType Recovery | Where-Object Name -eq "
            f"'{self.name}' | Remove-VMCheckpoint. Never delete its AVHDX files by hand.",
        )

    @classmethod
    def of_probe(cls, run: str) -> Self:
        """Return who the checkpoint of a probe belongs to."""
        return cls(PROBES, run)

    @classmethod
    def of(cls, name: str) -> Self | None:
        """Return who a checkpoint's name says it belongs to; None for a stranger's."""
        found = _NAME.fullmatch(name)
        return cls(found[1], found[2]) if found else None
