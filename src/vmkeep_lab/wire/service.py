"""The service: one SOAP request in, one answer out. It knows nothing of HTTP but the status."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from vmkeep_lab.cim import WmiError
from vmkeep_lab.wire.configuration import configuration
from vmkeep_lab.wire.disturbances import Disturbance, Disturbances, Effect
from vmkeep_lab.wire.enumerations import Enumerations
from vmkeep_lab.wire.faults import (
    ACTION_NOT_SUPPORTED,
    INTERNAL_ERROR,
    MAX_ENVELOPE_SIZE_EXCEEDED,
    MAX_OPERATIONS,
    SCHEMA_VALIDATION,
    UNREPORTABLE_SUCCESS,
    Provenance,
    SoapFault,
    WmiFault,
)
from vmkeep_lab.wire.markup import text
from vmkeep_lab.wire.names import (
    COMMAND,
    CONFIG,
    CREATE,
    DELETE,
    ENUMERATE,
    GET,
    IDENTITY,
    PULL,
    RECEIVE,
    RELEASE,
    SEND,
    SHELL,
    SIGNAL,
    SOAP,
    WMI,
    WSMAN,
    tag,
)
from vmkeep_lab.wire.provider import Provider
from vmkeep_lab.wire.resources import TRANSFERS, Resources
from vmkeep_lab.wire.settings import Settings
from vmkeep_lab.wire.shells import Shells
from vmkeep_lab.wire.soap import (
    HeaderReader,
    NotSoap,
    Reply,
    Request,
    envelope,
    open_envelope,
    relates_to,
)
from vmkeep_lab.wire.values import Values

_LOG: Final = logging.getLogger(__name__)
_ENUMERATIONS: Final = frozenset({ENUMERATE, PULL, RELEASE})
_SHELL_ACTIONS: Final = frozenset({COMMAND, RECEIVE, SEND, SIGNAL})


@dataclass(frozen=True)
class Answer:
    """An HTTP status with a body, and what is to go wrong with it on the way."""

    status: int
    body: bytes = b""
    disturbance: Disturbance | None = None


class Service:
    """A WS-Management service in front of a provider. Safe to use from several threads."""

    def __init__(
        self, provider: Provider, host_name: str, settings: Settings, disturbances: Disturbances
    ) -> None:
        values = Values(provider.schema)
        self._provider = provider
        self._host_name = host_name
        self._settings = settings
        self._disturbances = disturbances
        self._headers = HeaderReader(settings, values.addresses)
        self._enumerations = Enumerations(provider, values, settings)
        self._resources = Resources(provider, values)
        self._shells = Shells(provider, settings)
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self.stopping = threading.Event()

    def answer(self, data: bytes, encoding: str | None, user: str, client: str) -> Answer:
        """Answer a request of an authenticated user; ``user`` is empty for one who is not."""
        if len(data) > self._settings.max_envelope_bytes:
            return Answer(413)
        try:
            header, body, children = open_envelope(data, encoding)
        except NotSoap as error:
            _LOG.info("not SOAP: %s", error)
            return Answer(400)
        if body is not None and body.tag == tag(IDENTITY, "Identify"):
            return Answer(200, self._identify(bool(user)))
        if not user:
            return Answer(401)
        request: Request | None = None
        try:
            if len(children) > 1:
                raise SoapFault(SCHEMA_VALIDATION, "A body holds one element.")
            request = self._headers.read(header, body)
            with self._counted(user):
                return self._disturbed(request, user, client)
        except SoapFault as fault:
            return self._fault(fault, header, request)
        except WmiError as error:
            uri = request.resource_uri if request else ""
            provenance = Provenance(uri.removeprefix(WMI).rpartition("/")[0])
            return self._fault(WmiFault(error, provenance), header, request)
        except Exception:  # noqa: BLE001 - a mistake of the model must not end the connection of a client
            _LOG.exception("the lab's model made a mistake")
            mistake = SoapFault(INTERNAL_ERROR, "The lab's model made a mistake: see its log.")
            return self._fault(mistake, header, request)

    def _disturbed(self, request: Request, user: str, client: str) -> Answer:
        """Answer a request, unless a rule says that something goes wrong."""
        rule = self._disturbances.pick(request.action, request.resource_uri)
        if rule is None:
            return Answer(200, self._done(request, user, client))
        if rule.effect is Effect.CLOSE_BEFORE:
            return Answer(0, b"", rule)
        if rule.effect is Effect.STATUS:
            return Answer(rule.code, b"", rule)
        if rule.effect is Effect.FAULT:
            raise SoapFault(rule.code, rule.message)
        if rule.effect is Effect.DELAY:
            self._disturbances.delay(rule)
        done = self._done(request, user, client)
        if rule.effect is Effect.FAULT_AFTER:
            raise SoapFault(rule.code, rule.message)
        return Answer(200, done, rule)

    def _done(self, request: Request, user: str, client: str) -> bytes:
        """Do what a request asks and return the reply's envelope."""
        reply = self._dispatch(request, user, client)
        data = envelope(reply, self._provider.locale, request.message_id, request)
        if len(data) > request.max_envelope_bytes:
            # What was done is done: the client must look at the state (DSP0226, UnreportableSuccess).
            harmless = request.action == GET or request.action in _ENUMERATIONS
            code = MAX_ENVELOPE_SIZE_EXCEEDED if harmless else UNREPORTABLE_SUCCESS
            raise SoapFault(code, "The reply is larger than the envelope.")
        return data

    def _dispatch(self, request: Request, user: str, client: str) -> Reply:
        is_shell = request.resource_uri.lower().startswith(SHELL)
        if request.action in _SHELL_ACTIONS or (is_shell and request.action in {CREATE, DELETE}):
            return self._shells.answer(request, user, client)
        if is_shell:
            raise SoapFault(ACTION_NOT_SUPPORTED, "The action is not supported by the service.")
        if request.resource_uri.lower() == CONFIG:
            return configuration(request, self._settings)
        if request.action in _ENUMERATIONS:
            return self._enumerations.answer(request, user)
        if request.action in TRANSFERS:
            return self._resources.transfer(request)
        return self._resources.invoke(request)

    @contextmanager
    def _counted(self, user: str) -> Iterator[None]:
        """Count a user's operations; SoapFault where there are too many at once."""
        with self._lock:
            if self._running[user] >= self._settings.max_concurrent_operations_per_user:
                raise SoapFault(MAX_OPERATIONS, "The user has too many operations at once.")
            self._running[user] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[user] -= 1

    def _fault(self, fault: SoapFault, header: Element, request: Request | None) -> Answer:
        """Return a fault: always HTTP 500 on Windows, whoever is to blame."""
        locale = self._provider.locale
        reply = Reply(fault.action, fault.body(self._host_name, locale), "fault", fault.not_understood)
        return Answer(500, envelope(reply, locale, relates_to(header), request))

    def _identify(self, authenticated: bool) -> bytes:
        """Answer Identify; strangers do not learn the version ([MS-WSMV] 3.1.4.1.23)."""
        version = "OS: 10.0.17763 SP: 0.0 Stack: 3.0" if authenticated else "OS: 0.0.0 SP: 0.0 Stack: 3.0"
        profiles = (
            "<wsmid:SecurityProfiles><wsmid:SecurityProfileName>"
            "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/http/spnego-kerberos"
            "</wsmid:SecurityProfileName></wsmid:SecurityProfiles>"
        )
        return (
            f'<s:Envelope xml:lang="" xmlns:s="{SOAP}"><s:Header/><s:Body>'
            f'<wsmid:IdentifyResponse xmlns:wsmid="{IDENTITY}">'
            f"<wsmid:ProtocolVersion>{text(WSMAN)}</wsmid:ProtocolVersion>"
            "<wsmid:ProductVendor>Microsoft Corporation</wsmid:ProductVendor>"
            f"<wsmid:ProductVersion>{version}</wsmid:ProductVersion>{profiles if authenticated else ''}"
            "</wsmid:IdentifyResponse></s:Body></s:Envelope>"
        ).encode()
