"""Speak WS-Management to one host, and know nothing of VMs.

Nouns: Endpoint (where a host listens and who asks), Client (enumerate, get,
invoke, run), Ref (one WMI object's address), Instance and Result (what came
back, read through typed accessors), Method and EmbeddedClass (declared inputs),
Recorder (a scrubbed trace). The wire is [MS-WSMV]; what a reply means for a VM
is decided in `host.hyperv`.
"""

from vmkeep.host.wsman.cimtypes import Argument
from vmkeep.host.wsman.client import Client, Identity
from vmkeep.host.wsman.declared import Method
from vmkeep.host.wsman.endpoint import Endpoint
from vmkeep.host.wsman.errors import (
    ActionHappened,
    ArgumentRefused,
    ClocksDisagree,
    ConnectionLost,
    EndpointUnusable,
    EnumerationLost,
    EnvelopeTooLarge,
    HostBusy,
    HostError,
    HostFault,
    HostNonsense,
    HostNotTrusted,
    HostShuttingDown,
    HostTimedOut,
    HostUnreachable,
    InstanceMissing,
    KerberosMissing,
    LoginImpossible,
    LoginRefused,
    OutcomeUnknown,
    RightMissing,
    UnknownToHost,
    ValueRefused,
)
from vmkeep.host.wsman.instance import Instance, Result
from vmkeep.host.wsman.properties import EmbeddedClass, EmbeddedInstance, Properties
from vmkeep.host.wsman.query import quoted
from vmkeep.host.wsman.recorder import Recorder, TraceFile
from vmkeep.host.wsman.refs import Ref
from vmkeep.host.wsman.shell import CommandOutput

__all__ = [
    "ActionHappened",
    "Argument",
    "ArgumentRefused",
    "Client",
    "ClocksDisagree",
    "CommandOutput",
    "ConnectionLost",
    "EmbeddedClass",
    "EmbeddedInstance",
    "Endpoint",
    "EndpointUnusable",
    "EnumerationLost",
    "EnvelopeTooLarge",
    "HostBusy",
    "HostError",
    "HostFault",
    "HostNonsense",
    "HostNotTrusted",
    "HostShuttingDown",
    "HostTimedOut",
    "HostUnreachable",
    "Identity",
    "Instance",
    "InstanceMissing",
    "KerberosMissing",
    "LoginImpossible",
    "LoginRefused",
    "Method",
    "OutcomeUnknown",
    "Properties",
    "Recorder",
    "Ref",
    "Result",
    "RightMissing",
    "TraceFile",
    "UnknownToHost",
    "ValueRefused",
    "quoted",
]
