"""Answer requests with the replies of a trace."""

import logging
import re
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vmkeep_lab.replay.invented import Invented
from vmkeep_lab.replay.question import Canonical, Question
from vmkeep_lab.replay.trace import Exchange, TraceError
from vmkeep_lab.wire.faults import INTERNAL_ERROR, SoapFault
from vmkeep_lab.wire.markup import text
from vmkeep_lab.wire.service import Answer
from vmkeep_lab.wire.soap import NotSoap, Reply, envelope

_LOG: Final = logging.getLogger(__name__)
_MACHINE: Final = "replay"
_LOCALE: Final = "en-US"
_Key = tuple[Canonical, tuple[str, ...]]


@dataclass(frozen=True)
class _Recorded:
    """An exchange with what its request asked."""

    question: Question
    exchange: Exchange


class Replay:
    """What a host said, to be asked again. Safe to use from several threads.

    Repeats of a question get its recorded replies one after the other. TraceError where a recorded request
    cannot be read.
    """

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self._exchanges = exchanges
        self._by_frame: dict[Canonical, list[_Recorded]] = {}
        self._left: dict[_Key, deque[_Recorded]] = {}
        self._last: dict[_Key, _Recorded] = {}
        self._invented = Invented(self._told)
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        for exchange in exchanges:
            try:
                question = Question.read(exchange.request.encode("utf-8"))
            except (NotSoap, UnicodeEncodeError) as error:
                raise TraceError(f"the request of exchange {exchange.number} is no envelope") from error
            recorded = _Recorded(question, exchange)
            self._by_frame.setdefault(question.frame, []).append(recorded)
            self._left.setdefault((question.frame, question.texts), deque()).append(recorded)

    def answer(self, data: bytes, encoding: str | None, user: str, client: str) -> Answer:
        """Answer a request of an authenticated user; ``user`` is empty for one who is not."""
        if not user:
            return Answer(401)
        try:
            question = Question.read(data, encoding)
        except NotSoap as error:
            _LOG.info("not SOAP: %s", error)
            return Answer(400)
        with self._lock:
            found = self._next(question)
            if found is None:
                return self._refused(question)
            reply = self._invented.in_reply(found.exchange.reply)
        return Answer(
            found.exchange.status, _readdressed(reply, found.question.message_id, question.message_id)
        )

    def _next(self, question: Question) -> _Recorded | None:
        """Return the next recorded exchange that asked this."""
        texts = self._invented.as_recorded(question.texts)
        if not question.reads and (question.frame, texts) not in self._left:
            texts = self._aligned(question, texts)
        key = (question.frame, texts)
        left = self._left.get(key)
        if left:
            self._last[key] = left.popleft()
            return self._last[key]
        return self._last.get(key) if question.reads else None

    def _aligned(self, question: Question, texts: tuple[str, ...]) -> tuple[str, ...]:
        """Return the texts of the first recorded call that differs in names its asker made up only."""
        for recorded in self._by_frame.get(question.frame, ()):
            if self._invented.take(recorded.question.texts, texts, recorded.exchange.number):
                return recorded.question.texts
        return texts

    def _told(self, text: str, number: int) -> bool:
        return any(text in each.reply for each in self._exchanges if each.number < number)

    def _refused(self, question: Question) -> Answer:
        texts = self._invented.as_recorded(question.texts)
        asked = [each for each in self._by_frame.get(question.frame, ()) if each.question.texts == texts]
        how_often = f"no more than {len(asked)} times" if asked else "nowhere"
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
