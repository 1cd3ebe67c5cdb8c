"""Count the messages of a run, to its host and to its store, in one order; kill the run at one of them."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, Self, TypeAlias

When: TypeAlias = Literal["before", "after", "late"]
_PATIENCE_S: Final = 30.0
_LONGEST_BODY: Final = 16 << 20
_LONGEST_LINE: Final = 1 << 16


@dataclass(frozen=True)
class Death:
    """Where a run dies: at its message ``at``, from 1, or at the ``at``-th whose words begin with ``of``.

    ``before``: nobody got the message. ``after``: it was answered, and the answer
    is lost. ``late``: it was on its way, and arrives at the host after so many
    messages (``delay``) of whoever comes next; a message to the store is lost.
    """

    at: int
    when: When
    delay: int = 0
    of: str = ""


class _Over(Exception):
    """Nothing passes on this connection any more."""


class Gate:
    """Stands in front of a host's WS-Management ``port`` and of the stores of watched processes."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._death: Death | None = None
        self._victim = 0  # a process that has not ended: numbers are given again
        self._is_known = threading.Event()
        self._is_dead = False
        self._delay = 0  # of what is late
        self._counted = 0  # of the messages among which the death is chosen
        self._last = 0  # the message whose answer is not heard any more
        self._late: Callable[[], None] | None = None
        self._threads: list[threading.Thread] = []
        self.log: list[str] = []
        """The messages since :meth:`arm`: ``host``, or the verb and name of a request to the store."""
        self._doors = [self._listen(self._serve_host), self._listen(self._serve_store)]

    @property
    def host_port(self) -> int:
        return int(self._doors[0].getsockname()[1])

    @property
    def store_port(self) -> int:
        return int(self._doors[1].getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for door in self._doors:
            with contextlib.suppress(OSError):
                door.shutdown(socket.SHUT_RDWR)
            door.close()

    # --- what the test asks -------------------------------------------------------------------

    def arm(self, death: Death | None) -> None:
        """Count from here; the next process that is named dies at ``death``."""
        with self._lock:
            self.log, self._counted, self._last = [], 0, 0
            self._death, self._victim, self._is_dead = death, 0, False
            self._is_known.clear()

    def watch(self, pid: int) -> None:
        """Name the process that is to die."""
        self._victim = pid
        self._is_known.set()

    def let_go(self) -> list[str]:
        """Let whoever comes next pass, and return the messages so far.

        What was on its way arrives while they talk.
        """
        with self._lock:
            self._is_dead, self._victim, self._last = False, 0, 0
            self._delay, self._death = self._death.delay if self._death else 0, None
            log, self.log = self.log, []
            return log

    def deliver(self) -> bool:
        """Let what is still on its way arrive now; tell whether there was anything."""
        with self._lock:
            late, self._late = self._late, None
        if late is not None:
            late()
        return late is not None

    # --- messages -----------------------------------------------------------------------------

    def _enter(self, what: str) -> int:
        """Count one message; the process may not live to see it sent."""
        with self._lock:
            if self._is_dead:
                raise _Over
            self.log.append(what)
            number = len(self.log)
            death = self._death
            if death is not None and what.startswith(death.of):
                self._counted += 1
            late: Callable[[], None] | None = None
            if self._late is not None:
                is_due = number > self._delay
                late, self._late = (self._late, None) if is_due else (None, self._late)
            is_fatal = death is not None and what.startswith(death.of) and self._counted == death.at
            if is_fatal and death is not None and death.when == "after":
                self._last = number
            else:
                self._is_dead = is_fatal
        if late is not None:
            late()
        if self._is_dead:
            self._kill()
            raise _Over
        return number

    def _leave(self, number: int) -> None:
        """Take note that a message was answered; the process may not live to hear it."""
        with self._lock:
            if self._is_dead:
                raise _Over
            is_fatal = number == self._last
            self._is_dead = is_fatal
        if is_fatal:
            self._kill()
            raise _Over

    def _kill(self) -> None:
        assert self._is_known.wait(_PATIENCE_S) and self._victim
        os.kill(self._victim, signal.SIGKILL)

    # --- connections --------------------------------------------------------------------------

    def _listen(self, serve: Callable[[socket.socket], None]) -> socket.socket:
        door = socket.create_server(("127.0.0.1", 0))

        def accept() -> None:
            while True:
                try:
                    near, _ = door.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(near,), daemon=True).start()

        def talk(near: socket.socket) -> None:
            with near, contextlib.suppress(_Over, OSError):
                serve(near)

        threading.Thread(target=accept, daemon=True).start()
        return door

    def _serve_host(self, near: socket.socket) -> None:
        far = socket.create_connection(("127.0.0.1", self._target), timeout=_PATIENCE_S)
        is_late = False
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        questions, answers = near.makefile("rb"), far.makefile("rb")
        try:
            while (question := _message(questions)) is not None:
                try:
                    number = self._enter("host")
                except _Over:
                    is_late = self._keep(far, answers, question)
                    raise
                far.sendall(question)
                answer = _message(answers)
                self._leave(number)
                if answer is None:
                    return
                near.sendall(answer)
        finally:
            questions.close()
            if not is_late:
                answers.close()
                far.close()

    def _keep(self, far: socket.socket, answers: BinaryIO, question: bytes) -> bool:
        """Keep what was on its way when its sender died."""
        with self._lock:
            if self._death is None or self._death.when != "late" or self._late is not None:
                return False

            def deliver() -> None:
                with far, answers:
                    far.sendall(question)
                    _message(answers)

            self._late = deliver
            return True

    def _serve_store(self, near: socket.socket) -> None:
        with near.makefile("rb") as lines:
            while line := lines.readline(_LONGEST_LINE).decode("utf-8"):
                step, _, rest = line.rstrip("\n").partition(" ")
                if step == "before":
                    near.sendall(b"%d\n" % self._enter(rest))
                else:
                    self._leave(int(rest))
                    near.sendall(b"on\n")


def _message(stream: BinaryIO) -> bytes | None:
    """Read one HTTP message as it is; None at the end."""
    head = bytearray()
    length = 0
    while (line := stream.readline(_LONGEST_LINE)) not in (b"\r\n", b""):
        head += line
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    if not head:
        return None
    assert length <= _LONGEST_BODY
    body = stream.read(length)
    return bytes(head) + b"\r\n" + body if len(body) == length else None
