"""Answer requests with the replies of a trace."""

import logging
import re
import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from vmkeep_lab.replay.question import Canonical, Question
from vmkeep_lab.replay.trace import Exchange, TraceError
from vmkeep_lab.wire.faults import INTERNAL_ERROR, SoapFault
from vmkeep_lab.wire.markup import text
from vmkeep_lab.wire.service import Answer
from vmkeep_lab.wire.soap import NotSoap, Reply, envelope

_LOG: Final = logging.getLogger(__name__)
_MACHINE: Final = "replay"
_LOCALE: Final = "en-US"


class Replay:
    """What a host said, to be asked again. Safe to use from several threads.

    Repeats of a question get its recorded replies one after the other. TraceError where a recorded request
    cannot be read.
    """

    def __init__(self, exchanges: Iterable[Exchange]) -> None:
        self._recorded: dict[Canonical, list[tuple[str, Exchange]]] = {}
        self._asked: dict[Canonical, int] = defaultdict(int)
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        for exchange in exchanges:
            try:
                question = Question.read(exchange.request.encode("utf-8"))
            except (NotSoap, UnicodeEncodeError) as error:
                raise TraceError(f"the request of exchange {exchange.number} is no envelope") from error
            replies = self._recorded.setdefault(question.canonical, [])
            replies.append((question.message_id, exchange))

    def answer(self, data: bytes, encoding: str | None, user: str, client: str) -> Answer:
        """Answer a request of an authenticated user; ``user`` is empty for one who is not."""
        if not user:
            return Answer(401)
        try:
            question = Question.read(data, encoding)
        except NotSoap as error:
            _LOG.info("not SOAP: %s", error)
            return Answer(400)
        found = self._next(question)
        if found is None:
            return self._refused(question)
        message_id, exchange = found
        return Answer(exchange.status, _readdressed(exchange.reply, message_id, question.message_id))

    def _next(self, question: Question) -> tuple[str, Exchange] | None:
        """Return the next recorded exchange of this question, with the message id of its request."""
        replies = self._recorded.get(question.canonical)
        if not replies:
            return None
        with self._lock:
            place = self._asked[question.canonical]
            if place < len(replies):
                self._asked[question.canonical] += 1
                return replies[place]
        return replies[-1] if question.reads else None

    def _refused(self, question: Question) -> Answer:
        times = len(self._recorded.get(question.canonical, ()))
        how_often = f"no more than {times} times" if times else "nowhere"
        message = f"The trace holds this request {how_often}: {question.title}."
        _LOG.warning("%s", message)
        fault = SoapFault(INTERNAL_ERROR, message)
        reply = Reply(fault.action, fault.body(_MACHINE, _LOCALE), "fault")
        return Answer(500, envelope(reply, _LOCALE, question.message_id, None))


def _readdressed(reply: str, recorded_id: str, message_id: str) -> bytes:
    """Return a recorded reply as one to another message."""
    if recorded_id:
        written = re.compile(re.escape(text(recorded_id)), re.IGNORECASE)
        reply = written.sub(lambda _: text(message_id), reply)
    return reply.encode("utf-8", "replace")
