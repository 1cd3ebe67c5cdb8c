"""WS-Management as a Windows host speaks it: HTTP, authentication, enumerations, invokes, shells, faults.

The wire knows no VM. It asks a ``Provider`` for instances and hands it method calls; the schema tells it how
values look. Rules cite [MS-WSMV] and the recordings of real hosts.
"""

from vmkeep_lab.wire.provider import FindsInstances, Provider

__all__ = ["FindsInstances", "Provider"]
