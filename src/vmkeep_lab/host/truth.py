"""The lab's own record of what every disk held at every freeze: ``truth.jsonl``."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from vmkeep_lab.host.records import plain

TRUTH_FILE: Final = "truth.jsonl"


@dataclass(frozen=True)
class Witness:
    """What one virtual disk held at one instant.

    ``sha256`` is over the ``size`` bytes the guest sees. ``disk`` is the base name of its files, ``slot``
    controller and location; ``checkpoint`` the id of the checkpoint or reference point, ``kind`` user,
    recovery or reference-point.
    """

    vm: str
    vm_id: str
    disk: str
    disk_id: str
    slot: str
    checkpoint: str
    kind: str
    time: datetime
    size: int
    sha256: str


def testify(folder: Path, witness: Witness) -> None:
    """Append one line; it is on its way to the medium before anybody sees the checkpoint."""
    with (folder / TRUTH_FILE).open("a", encoding="utf-8") as out:
        out.write(json.dumps(plain(witness), ensure_ascii=True) + "\n")
