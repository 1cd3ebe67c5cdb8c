"""Ask one question: envelope out, checked answer in, faults as errors, and the rules of asking again.

What is repeated, and when (wsman-wire.md section 5), by the request's effect:

| what happened               | READS                | TAKES (Pull, Receive) | ACTS (Invoke, Command) |
|-----------------------------|----------------------|-----------------------|------------------------|
| busy, quota, HTTP 503       | again after a pause  | again after a pause   | again after a pause    |
| connection broke            | again, once, at once | ConnectionLost        | OutcomeUnknown         |
| no HTTP answer in time      | HostTimedOut         | ConnectionLost        | OutcomeUnknown         |
| the host's fault "timed out"| HostTimedOut         | HostTimedOut          | OutcomeUnknown         |
| nonsense                    | HostNonsense         | HostNonsense          | OutcomeUnknown         |
| any other fault             | its error            | its error             | its error              |
"""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from vmkeep.clock import Clock, sleep_looking, unwatched
from vmkeep.host.wsman.connection import HttpReply, Transport
from vmkeep.host.wsman.envelope import (
    Answer,
    Effect,
    Request,
    envelope,
    identify_envelope,
    read_answer,
    read_identity,
)
from vmkeep.host.wsman.errors import (
    ConnectionLost,
    EnvelopeTooLarge,
    HostBusy,
    HostError,
    HostNonsense,
    HostTimedOut,
    OutcomeUnknown,
    RightMissing,
)
from vmkeep.host.wsman.faults import error_for, read_fault
from vmkeep.host.wsman.names import CREATE, DELETE, ENUMERATE, GET, PULL, RELEASE
from vmkeep.host.wsman.recorder import Recorder

_PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
_NETWORK_DELAY_S: Final = 5.0  # on top of the operation's time ([MS-WSMV] 3.2.4.1)
_WITH_ENVELOPE: Final = frozenset({200, 400, 500})  # Windows sends each fault with 500, others some with 400

# What an action needs in the descriptor RootSDDL ([MS-WSMV] 3.1.4.1.28), which only
# administrators have from the start, and WMI's own lists come on top.
_READING: Final = "the right Read (GR) in WinRM's RootSDDL, and Enable and Remote Enable on the WMI namespace"
_WRITING: Final = "the right Write (GW) in WinRM's RootSDDL"
_EXECUTING: Final = (
    "the right Execute (GX) in WinRM's RootSDDL (as Remote Management Users have it), Execute Methods on "
    "the WMI namespace, and for Hyper-V membership in Hyper-V Administrators"
)
_RIGHTS: Final = dict.fromkeys((GET, ENUMERATE, PULL, RELEASE), _READING) | dict.fromkeys(
    (CREATE, DELETE), _WRITING
)


class Exchange:
    """The questions asked of one host, one after the other; ``requests`` counts the envelopes."""

    def __init__(
        self, url: str, transport: Transport, clock: Clock, timeout_s: float, recorder: Recorder | None
    ) -> None:
        self.url = url
        self.clock = clock
        self.timeout_s = timeout_s
        self.requests = 0
        self._transport = transport
        self._recorder = recorder
        self._look: Callable[[], None] = unwatched
        self._busy = threading.Lock()

    def ask(self, request: Request, *, timeout_s: float | None = None) -> Answer:
        """Send a request and return its checked answer; never a fault.

        Raises the errors of :mod:`vmkeep.host.wsman.errors`, and RuntimeError if two
        threads use one client at once: messages are numbered and sealed in order.
        """
        operation_s = timeout_s or self.timeout_s

        def once() -> Answer:
            message_id = f"uuid:{uuid.uuid4()}".upper().replace("UUID", "uuid")
            content = envelope(request, self.url, message_id, operation_s).encode("utf-8")
            reply = self._sent(request, content, operation_s)
            return self._understood(
                request, reply, lambda text: read_answer(text, message_id, request.action)
            )

        return self._repeated(request, once)

    def identify(self) -> Answer:
        """Send the one request that has no address."""
        request = Request(action="Identify", resource="WS-Management", effect=Effect.READS)

        def once() -> Answer:
            reply = self._sent(request, identify_envelope().encode("utf-8"), self.timeout_s)
            return self._understood(request, reply, read_identity)

        return self._repeated(request, once)

    @contextmanager
    def looking(self, look: Callable[[], None]) -> Iterator[None]:
        """Have ``look`` called while the host is waited for; see :class:`Transport`."""
        before = self._look
        self._watch_by(look)
        try:
            yield
        finally:
            self._watch_by(before)

    def _watch_by(self, look: Callable[[], None]) -> None:
        self._look = look
        self._transport.be_watched(look)

    def close(self) -> None:
        """Let the connection go."""
        self._transport.close()

    def _repeated(self, request: Request, once: Callable[[], Answer]) -> Answer:
        pauses, lost = iter(_PAUSES_S), False
        while True:
            try:
                return once()
            except HostBusy:
                pause_s = next(pauses, None)
                if pause_s is None:
                    raise
                sleep_looking(self.clock, pause_s, self._look)
            except ConnectionLost as error:
                if request.effect is Effect.ACTS:
                    raise self._unknown(request, error) from error
                if lost or request.effect is Effect.TAKES:
                    raise
                lost = True
            except HostTimedOut as error:
                if request.effect is Effect.ACTS:
                    raise self._unknown(request, error) from error
                raise

    def _sent(self, request: Request, content: bytes, operation_s: float) -> HttpReply:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("one client is used by two threads at once")
        try:
            self.requests += 1
            reply = self._transport.send(content, operation_s + _NETWORK_DELAY_S)
        except HostTimedOut as error:
            if request.effect is not Effect.TAKES:
                raise
            raise ConnectionLost(error.message, host=self.url) from error
        finally:
            self._busy.release()
        if self._recorder is not None:
            self._recorder.record(request.action, request.resource, content, reply.status, reply.content)
        return reply

    def _understood(self, request: Request, reply: HttpReply, read: Callable[[bytes], Answer]) -> Answer:
        if reply.status not in _WITH_ENVELOPE or not reply.content:
            raise self._refusal(request, reply.status)
        try:
            answer = read(reply.content)
            if answer.is_fault or reply.status == 200:
                if not answer.is_fault:
                    return answer
                assert answer.body is not None
                right = _RIGHTS.get(request.action, _EXECUTING)
                raise error_for(read_fault(answer.body), self.url, request.title, right)
            raise HostNonsense(f"an answer without a fault came with HTTP status {reply.status}.")
        except HostNonsense as error:
            if request.effect is not Effect.ACTS:
                raise HostNonsense(
                    f"{self.url} answers {request.title} with nonsense: {error.message}", host=self.url
                ) from error
            raise self._unknown(request, error) from error

    def _refusal(self, request: Request, status: int) -> HostError:
        """Return what an HTTP status means that came without an envelope."""
        message = f"{self.url} answers {request.title} with HTTP status {status}"
        if status == 503:
            return HostBusy(f"{message}: it is starting, or overloaded.", host=self.url, status=status)
        if status == 413:
            return EnvelopeTooLarge(f"{message}: the request is too large.", host=self.url, status=status)
        if status == 403:
            return RightMissing(
                f"{message}; it needs {_RIGHTS.get(request.action, _EXECUTING)}.",
                host=self.url,
                status=status,
            )
        nonsense = HostNonsense(f"{message} and without an answer.", host=self.url, status=status)
        if status in {200, 500} and request.effect is Effect.ACTS:
            unknown = self._unknown(request, nonsense)
            unknown.__cause__ = nonsense
            return unknown
        return nonsense

    def _unknown(self, request: Request, cause: HostError) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"{request.title} was sent to {self.url}, and nobody knows whether it ran: {cause.message}",
            host=self.url,
            request=request.title,
            cause=cause.code,
        )
