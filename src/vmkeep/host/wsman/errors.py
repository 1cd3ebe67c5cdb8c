"""What can go wrong between vmkeep and a host's WS-Management.

Each error names the host and the request. ``context`` holds what a program may
decide by: ``host``, ``request``, and from a fault ``code`` (WS-Management's),
``hresult`` (WMI's or Windows'), ``subcode`` and ``host_text``, the host's own
translated sentence, which is for display only.
"""

from vmkeep.errors import ExitCode, Retry, VmkeepError

_REPORT = "This is a defect of vmkeep; please report it with a trace made by --record."


class HostError(VmkeepError):
    """Something about talking to a host."""

    code = "HW000"
    exit_code = ExitCode.HOST_UNREACHABLE


class EndpointUnusable(HostError):
    """The description of a host contradicts itself or asks for something unsafe."""

    code = "HW001"
    exit_code = ExitCode.USAGE
    default_hint = "Correct the host's block in the configuration."


class HostUnreachable(HostError):
    """Nothing answers at the host's address."""

    code = "HW002"
    retry = Retry.LATER
    default_hint = (
        "Check name, port and firewall; on the host, `winrm enumerate winrm/config/listener` shows whether "
        "it listens on 5986 (https) or 5985 (http)."
    )


class HostNotTrusted(HostError):
    """The host's certificate does not prove that it is the host."""

    code = "HW003"
    retry = Retry.AFTER_CURE
    default_hint = (
        "Set `ca_file` to the certificate of the authority that issued the host's certificate, and `address` "
        "to a name the certificate holds."
    )


class ClocksDisagree(HostError):
    """The clocks of the host and of this machine are too far apart."""

    code = "HW004"
    retry = Retry.AFTER_CURE
    default_hint = "Compare the time of both machines and repair NTP; vmkeep never sets a clock."


class LoginRefused(HostError):
    """The host refuses this user and password."""

    code = "HW005"
    retry = Retry.AFTER_CURE
    default_hint = (
        "Check user and password before you repeat: each attempt counts towards locking the account. Write "
        "the user as DOMAIN\\user, or HOST\\user for a local account."
    )


class LoginImpossible(HostError):
    """The host and this machine have no way of logging in in common."""

    code = "HW006"
    retry = Retry.AFTER_CURE
    default_hint = "Compare `auth` with what the host allows; Kerberos on Linux needs the extra `kerberos`."


class RightMissing(HostError):
    """The user may log in, but not do this."""

    code = "HW007"
    retry = Retry.AFTER_CURE
    default_hint = (
        "Give the account the right named here, as docs/rights.md shows: a member of Hyper-V Administrators "
        "and Remote Management Users need be no administrator; a new membership counts from the next login."
    )


class HostBusy(HostError):
    """The host is too busy, or a quota is used up, also after waiting."""

    code = "HW008"
    exit_code = ExitCode.BUSY
    retry = Retry.LATER
    default_hint = "Find out what else talks to the host; quotas are freed when other programs end."


class HostTimedOut(HostError):
    """The host did not answer in time."""

    code = "HW009"
    retry = Retry.LATER
    default_hint = "Look at the load of the host and whether its WMI service answers other programs."


class HostShuttingDown(HostError):
    """The host's WMI is being shut down."""

    code = "HW010"
    retry = Retry.LATER
    default_hint = "Repeat when the host has started again."


class ConnectionLost(HostError):
    """The connection broke before the host's answer was complete, twice."""

    code = "HW011"
    retry = Retry.NOW
    default_hint = "Check the network between this machine and the host."


class EnumerationLost(HostError):
    """The host forgot a list before it was read to its end."""

    code = "HW012"
    retry = Retry.NOW
    default_hint = "Repeat; if it happens again, the host's EnumerationTimeoutms is very short."


class OutcomeUnknown(HostError):
    """A method was sent and its answer lost: nobody knows whether it ran."""

    code = "HW013"
    exit_code = ExitCode.FAILED
    default_hint = "Look at the state of the host before the method is called again."


class ActionHappened(HostError):
    """A method ran, but the host could not put its answer into words."""

    code = "HW014"
    exit_code = ExitCode.FAILED
    default_hint = "Look at the state of the host; do not call the method again."


class EnvelopeTooLarge(HostError):
    """A request or an answer is larger than the host's MaxEnvelopeSizekb."""

    code = "HW015"
    exit_code = ExitCode.FAILED
    default_hint = "Ask for less at once."


class InstanceMissing(HostError):
    """The host has no such object any more."""

    code = "HW016"
    exit_code = ExitCode.FAILED
    default_hint = "It was removed meanwhile, or its name was never right; list what is there."


class UnknownToHost(HostError):
    """The host does not understand a request: an unknown class, property, method or namespace."""

    code = "HW017"
    exit_code = ExitCode.FAILED
    default_hint = f"Unless the host lacks the Hyper-V role: {_REPORT[0].lower()}{_REPORT[1:]}"


class HostFault(HostError):
    """The host refuses or fails for a reason of its own."""

    code = "HW018"
    exit_code = ExitCode.FAILED
    default_hint = "The codes in the message say more; look at the host's event log at this time."


class HostNonsense(HostError):
    """What answers at the address does not speak WS-Management as it should."""

    code = "HW019"
    default_hint = (
        "Check address and port, and whether a proxy or another service answers there instead of the host."
    )


class ValueRefused(HostError):
    """A property of the host is missing, null, or not of the type its class declares."""

    code = "HW020"
    exit_code = ExitCode.FAILED
    default_hint = _REPORT


class ArgumentRefused(HostError):
    """A value cannot be put into a request: a wrong type or range, or characters that XML cannot carry."""

    code = "HW021"
    exit_code = ExitCode.FAILED
    default_hint = _REPORT


class KerberosMissing(HostError):
    """This machine has no Kerberos that Python could use."""

    code = "HW022"
    exit_code = ExitCode.USAGE
    retry = Retry.AFTER_CURE
    default_hint = (
        "Install the extra: `pip install 'vmkeep[kerberos]'`, which on Linux needs gcc and the headers of "
        "Kerberos and Python (Debian: gcc libkrb5-dev python3-dev)."
    )
