"""A TCP proxy on loopback that makes a network bad in one chosen way: slow, cut, silent, or lying.

Bytes are handed on in whole SMB frames (four bytes of length in front,
[MS-SMB2] 2.1), so that a test can cut between or within answers and count
requests by what stands in their headers; ``in_frames=False`` is for any other protocol.
"""

import contextlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Self

_READ: Final = 8  # SMB2 READ ([MS-SMB2] 2.2.1.2)
_IS_ANSWER: Final = 1  # SMB2_FLAGS_SERVER_TO_REDIR
PENDING: Final = 0x103

Waiting = queue.Queue[tuple[float, bytes] | None]


class Proxy:
    """Listens on a free port and leads to ``port``; close it, or use it in ``with``."""

    def __init__(self, port: int, *, in_frames: bool = True) -> None:
        self._target = port
        self._split = _frames if in_frames else _pieces
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._flow = _flowing()
        self._silent: list[threading.Event] = []
        self._closed = False
        self.refuses = False
        """Whether new connections end at once."""
        self.latency_s = 0.0
        self.rewrite: Callable[[bytes], bytes] = lambda frame: frame
        """Applied to each frame from the server."""
        self.cut_after: int | None = None
        """How many answers to READ still pass; then half of the next one, and the connection is cut."""
        self.connections = 0
        self.reads_outstanding = 0
        self.most_reads_outstanding = 0
        self.read_lengths: list[int] = []
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stall(self) -> None:
        """Let nothing pass any more, without a word to either side."""
        self._flow.clear()

    def resume(self) -> None:
        self._flow.set()

    def resume_new(self) -> None:
        """Let new connections pass; those that are silent stay so, and the server does not notice."""
        with self._lock:
            self._silent.append(self._flow)
            self._flow = _flowing()

    def cut(self) -> None:
        """Reset every connection."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self.reads_outstanding = 0
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        self._closed = True
        for flow in (*self._silent, self._flow):
            flow.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(timeout=10)
            assert not thread.is_alive()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target), timeout=10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((near, far))
                self.connections += 1
            for source, sink, is_answer in ((near, far, False), (far, near, True)):
                waiting: Waiting = queue.Queue()
                self._start(self._take, source, waiting, is_answer)
                self._start(self._give, sink, waiting, self._flow, is_answer)

    def _take(self, source: socket.socket, waiting: Waiting, is_answer: bool) -> None:
        for frame in self._split(source):
            if not is_answer:
                self._note_request(frame)
            waiting.put((time.monotonic() + self.latency_s, frame))
        waiting.put(None)

    def _give(self, sink: socket.socket, waiting: Waiting, flow: threading.Event, is_answer: bool) -> None:
        while (item := waiting.get()) is not None:
            due, frame = item
            if (early := due - time.monotonic()) > 0:
                time.sleep(early)
            flow.wait()
            if is_answer:
                is_read = self._note_answer(frame)
                frame = self.rewrite(frame)
                if is_read and self.cut_after is not None:
                    if self.cut_after == 0:
                        self.cut_after = None
                        with contextlib.suppress(OSError):
                            sink.sendall(frame[: len(frame) // 2])
                        self.cut()
                        return
                    self.cut_after -= 1
            with contextlib.suppress(OSError):
                sink.sendall(frame)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _note_request(self, frame: bytes) -> None:
        if is_read(frame):
            with self._lock:
                self.reads_outstanding += 1
                self.most_reads_outstanding = max(self.most_reads_outstanding, self.reads_outstanding)
                self.read_lengths.append(struct.unpack_from("<I", frame, 4 + 64 + 4)[0])

    def _note_answer(self, frame: bytes) -> bool:
        if not is_read(frame) or struct.unpack_from("<I", frame, 4 + 8)[0] == PENDING:
            return False
        with self._lock:
            self.reads_outstanding -= 1
        return True


def _flowing() -> threading.Event:
    flow = threading.Event()
    flow.set()
    return flow


def is_read(frame: bytes) -> bool:
    """Tell whether a frame, as sent, is a READ or the answer to one; an encrypted frame never is."""
    return frame[4:8] == b"\xfeSMB" and struct.unpack_from("<H", frame, 4 + 12)[0] == _READ


def _pieces(source: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            data = source.recv(1 << 20)
        except OSError:
            return
        if not data:
            return
        yield data


def _frames(source: socket.socket) -> Iterator[bytes]:
    pending = bytearray()
    for data in _pieces(source):
        pending += data
        while len(pending) >= 4 and len(pending) >= (end := 4 + int.from_bytes(pending[:4], "big")):
            yield bytes(pending[:end])
            del pending[:end]
