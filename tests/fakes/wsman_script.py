"""A transport without a network: it answers with the replies of a script, or of a trace."""

import re
from collections.abc import Callable, Iterable

from tests.clocks import FakeClock
from tests.fakes.wsman_host import Question, Reply
from vmkeep.errors import VmkeepError
from vmkeep.host.wsman.connection import HttpReply
from vmkeep.host.wsman.exchange import Exchange
from vmkeep.host.wsman.recorder import Recorder

_RELATES = re.compile(r"(<\w+:RelatesTo>)[^<]*(</\w+:RelatesTo>)")


class Scripted:
    """Gives one reply a question: a body, a whole recorded envelope, or a :class:`Reply`."""

    def __init__(self, replies: Iterable[str | Reply]) -> None:
        self._replies = iter(replies)
        self.asked: list[Question] = []
        self.closed = 0
        self.clock = FakeClock()

    def be_watched(self, look: Callable[[], None]) -> None:
        """It answers at once: there is nothing to look through."""

    def exchange(self, recorder: Recorder | None = None) -> Exchange:
        return Exchange("https://hv01:5986/wsman", self, self.clock, 60.0, recorder)

    def send(self, content: bytes, wait_s: float) -> HttpReply:
        question = Question(content.decode())
        self.asked.append(question)
        reply = next(self._replies)
        if isinstance(reply, str) and reply.startswith("<s:Envelope"):
            related = _RELATES.sub(rf"\g<1>{question.header('a:MessageID')}\g<2>", reply)
            return HttpReply(200, related.encode())
        if isinstance(reply, str):
            reply = Reply(reply)
        return HttpReply(reply.status, reply.envelope(question))

    def close(self) -> None:
        self.closed += 1


class Breaking(Scripted):
    """Raises the errors given instead of its next answers."""

    def __init__(self, errors: list[VmkeepError], replies: Iterable[str | Reply]) -> None:
        super().__init__(replies)
        self.errors = errors
        self.sent = 0

    def send(self, content: bytes, wait_s: float) -> HttpReply:
        self.sent += 1
        if self.errors:
            raise self.errors.pop(0)
        return super().send(content, wait_s)
