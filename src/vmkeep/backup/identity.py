"""Tell whose restore point a run takes when no host says it."""

import os
import uuid
from pathlib import Path
from typing import Final

from vmkeep.capture.folder import vm_id_of_export
from vmkeep.capture.source import SourceAddress, readable
from vmkeep.model.plan import VmRef
from vmkeep.repository.listing import SealedPoint

# Names of files are not unique in the world: the id of loose disks is made
# from where they lie, or from the name the user gives them.
_NAMESPACE: Final = uuid.UUID("8a5d3f5e-62d1-5a0a-9d1c-3c2f6c1b7a10")


def identify(source: SourceAddress, name: str | None, parent: SealedPoint | None) -> VmRef:
    """Return the VM: the export's own id, the parent's VM, the name given, or the place; first that is known.

    A parent given by the user means: this is the same machine, later.
    """
    path = Path(os.path.normpath(source.path.absolute()))
    name = readable(name) if name else None
    label = name or readable(path.name if source.kind == "folder" else path.stem) or "vm"
    own = vm_id_of_export(source)
    if own is not None:
        return VmRef(str(own), label)
    if parent is not None and name in (None, parent.point.vm.name):
        return parent.point.vm
    key = f"name:{name}" if name else readable(f"{source.kind}:{path}")
    return VmRef(str(uuid.uuid5(_NAMESPACE, key)), label)
