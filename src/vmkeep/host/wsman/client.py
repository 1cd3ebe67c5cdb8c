"""Enumerate, get, invoke and run on one host."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from xml.etree.ElementTree import Element

from vmkeep.clock import Clock
from vmkeep.host.wsman import query
from vmkeep.host.wsman.cimtypes import Argument
from vmkeep.host.wsman.connection import Connection, Transport
from vmkeep.host.wsman.declared import Method
from vmkeep.host.wsman.endpoint import Endpoint
from vmkeep.host.wsman.enumeration import enumerate_items
from vmkeep.host.wsman.envelope import Effect, Request
from vmkeep.host.wsman.errors import HostError, HostNonsense, OutcomeUnknown
from vmkeep.host.wsman.exchange import Exchange
from vmkeep.host.wsman.instance import Instance, Result, read_instance, read_properties
from vmkeep.host.wsman.names import GET, IDENTITY, WQL, class_uri
from vmkeep.host.wsman.reading import content_of
from vmkeep.host.wsman.recorder import Recorder
from vmkeep.host.wsman.refs import Ref, selectors_xml
from vmkeep.host.wsman.shell import CommandOutput, run_command
from vmkeep.host.wsman.writing import escaped

_COMMAND_LIMIT_S: Final = 600.0


@dataclass(frozen=True)
class Identity:
    """What a host says it is; texts for display."""

    vendor: str
    version: str
    protocol: str


class Client:
    """Ask one host. For one thread: messages of one connection are sealed in order.

    Nothing is connected before the first question, a connection the host let go
    is renewed, and ``with`` closes it. All questions raise the leaves of
    HostError; those that say nothing more than "ask again" were asked again.
    What yields instances is a generator: ``contextlib.closing`` ends it at once.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        recorder: Recorder | None = None,
        transport: Transport | None = None,
    ) -> None:
        """``transport`` stands in for the network where a recorded trace is replayed."""
        self.endpoint = endpoint
        if recorder is not None:
            recorder.hide(endpoint)
        self._exchange = Exchange(
            endpoint.url,
            transport or Connection(endpoint, clock),
            clock,
            endpoint.operation_timeout_s,
            recorder,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go; another question would open a new one."""
        self._exchange.close()

    def looking(self, look: Callable[[], None]) -> AbstractContextManager[None]:
        """Have ``look`` called at least once a second while an answer is awaited; it may raise, and end that.

        Whether a call that was left so has run nobody knows. ``look`` must not ask this client.
        """
        return self._exchange.looking(look)

    @property
    def requests(self) -> int:
        """How many envelopes were sent so far, those that were sent again included."""
        return self._exchange.requests

    def identify(self) -> Identity:
        """Ask who answers: the cheapest question, which needs no right in WMI."""
        body = self._exchange.identify().expect(f"{{{IDENTITY}}}IdentifyResponse")
        parts = (
            content_of(body.find(f"{{{IDENTITY}}}{name}"))
            for name in ("ProductVendor", "ProductVersion", "ProtocolVersion")
        )
        return Identity(*parts)

    def enumerate(
        self, class_name: str, namespace: str, *, properties: Sequence[str] = (), where: str = ""
    ) -> Generator[Instance, None, None]:
        """Yield the instances of a class, page by page; stopping early tells the host.

        ``properties`` names those that are wanted (all if empty), ``where`` is the
        condition of a WQL query, its literals written by :func:`quoted`.
        """
        if properties or where:
            return self.query(query.select(class_name, properties, where), namespace)
        return self._instances(class_uri(namespace, class_name), "", namespace, "")

    def query(self, wql: str, namespace: str) -> Generator[Instance, None, None]:
        """Yield what a WQL query finds, page by page; stopping early tells the host."""
        # A query needs the address of the whole namespace, else 2150859003 (wsman-wire.md section 3).
        wanted = f'<w:Filter Dialect="{WQL}">{escaped(wql)}</w:Filter>'
        return self._instances(class_uri(namespace, "*"), wanted, namespace, query.class_asked(wql))

    def references(self, ref: Ref, association: str) -> Generator[Instance, None, None]:
        """Yield the instances of one class of association that point to an instance."""
        return self.query(query.references(ref, association), ref.namespace)

    def get(self, ref: Ref) -> Instance:
        """Return one instance. Raises InstanceMissing where there is none (any more)."""
        request = Request(action=GET, resource=ref.uri, effect=Effect.READS, selectors=selectors_xml(ref))
        body = self._exchange.ask(request).body
        if body is None:
            raise HostNonsense(
                f"{self.endpoint.url} answers {request.title} with nothing.", host=self.endpoint.url
            )
        return read_instance(body, ref.namespace, "")

    def invoke(
        self,
        target: Ref,
        method: Method,
        arguments: Mapping[str, Argument] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Result:
        """Call a method and return its number and out parameters; a number other than 0 is no error.

        Never called twice where it may have run: OutcomeUnknown says that it may
        have, ActionHappened that it has, EnvelopeTooLarge that its answer does not
        fit (it may have run).
        """
        request = Request(
            action=f"{target.uri}/{method.name}",
            resource=target.uri,
            effect=Effect.ACTS,
            selectors=selectors_xml(target),
            body=method.input_xml(target.uri, arguments or {}),
        )
        answer = self._exchange.ask(request, timeout_s=timeout_s)
        try:
            output: Element = answer.expect(f"{{{target.uri}}}{method.name}_OUTPUT")
            return Result(f"{target.class_name}.{method.name}", read_properties(output, f"{{{target.uri}}}"))
        except HostError as error:
            raise OutcomeUnknown(
                f"{self.endpoint.url} answers {request.title} with what cannot be read: {error.message}",
                host=self.endpoint.url,
                request=request.title,
            ) from error

    def run(
        self, command: str, arguments: Sequence[str] = (), *, limit_s: float = _COMMAND_LIMIT_S
    ) -> CommandOutput:
        """Run a program on the host and return what it printed and its exit code.

        Raises OutcomeUnknown where it may have run unheard, and HostTimedOut after
        it was ended because it took longer than ``limit_s``.
        """
        return run_command(self._exchange, command, arguments, limit_s)

    def _instances(
        self, uri: str, wanted: str, namespace: str, class_asked: str
    ) -> Generator[Instance, None, None]:
        with closing(enumerate_items(self._exchange, uri, wanted)) as items:
            for item in items:
                yield read_instance(item, namespace, class_asked)
