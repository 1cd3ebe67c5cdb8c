"""HTTP/1.1 as http.sys speaks it: requests with bounds, replies in one write, no reason phrase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import BinaryIO, Final

from vmkeep_lab import clock

MAX_LINE: Final = 16_384  # http.sys: a request's line and headers
MAX_HEADERS: Final = 64
_MAX_CHUNKS: Final = 65_536


class BadRequest(Exception):
    """A request that gets a bare status and ends the connection."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


@dataclass(frozen=True)
class HttpRequest:
    """A request; header names in lower case, the body not yet read."""

    method: str
    path: str
    headers: Mapping[str, str]
    keep_alive: bool

    @property
    def is_chunked(self) -> bool:
        """Tell whether the body comes in chunks."""
        return "chunked" in self.headers.get("transfer-encoding", "").lower()


def read_head(stream: BinaryIO) -> HttpRequest | None:
    """Read a request up to its body; None where the connection ends before it; BadRequest."""
    line = _line(stream)
    while line == "":
        line = _line(stream)
    if line is None:
        return None
    words = line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequest(400)
    headers: dict[str, str] = {}
    for _ in range(MAX_HEADERS):
        line = _line(stream)
        if line is None:
            raise BadRequest(400)
        if line == "":
            break
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or name != name.strip():
            raise BadRequest(400)
        headers[name.lower()] = value.strip()
    else:
        raise BadRequest(400)
    wish = headers.get("connection", "").lower()
    keep = wish == "keep-alive" if words[2] == "HTTP/1.0" else wish != "close"
    return HttpRequest(words[0], words[1], headers, keep)


def read_body(stream: BinaryIO, request: HttpRequest, most: int) -> bytes:
    """Read a request's body; BadRequest 413 where it is larger than ``most``, 400 where it is cut."""
    if request.is_chunked:
        return _read_chunks(stream, most)
    length = request.headers.get("content-length", "0" if request.method == "GET" else "")
    if not length:
        raise BadRequest(411)
    if not length.isascii() or not length.isdigit():
        raise BadRequest(400)
    if len(length) > 12 or int(length) > most:
        raise BadRequest(413)
    return _exactly(stream, int(length))


def _read_chunks(stream: BinaryIO, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    for _ in range(_MAX_CHUNKS):
        line = (_line(stream) or "").partition(";")[0].strip()
        try:
            length = int(line, 16)
        except ValueError as error:
            raise BadRequest(400) from error
        size += length
        if length < 0 or size > most:
            raise BadRequest(413)
        parts.append(_exactly(stream, length))
        if _line(stream) != "":
            raise BadRequest(400)
        if length == 0:
            return b"".join(parts)
    raise BadRequest(400)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    try:
        data = stream.read(size)
    except TimeoutError as error:
        # The body did not arrive within MaxPacketRetrievalTimeSeconds ([MS-WSMV] 3.1.5.2).
        raise BadRequest(500) from error
    if len(data) != size:
        raise BadRequest(400)
    return data


def _line(stream: BinaryIO) -> str | None:
    line = stream.readline(MAX_LINE + 1)
    if not line:
        return None
    if len(line) > MAX_LINE or not line.endswith(b"\n"):
        raise BadRequest(400)
    return line.rstrip(b"\r\n").decode("latin-1")


def written(status: int, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return a whole reply, to be sent in one write (recorded: the reason phrase is empty)."""
    rows = [
        f"HTTP/1.1 {status} ",
        *(f"{name}: {value}" for name, value in headers),
        "Server: Microsoft-HTTPAPI/2.0",
        f"Date: {_date(clock.now())}",
        f"Content-Length: {len(body)}",
        "\r\n",
    ]
    return "\r\n".join(rows).encode("latin-1") + body


def _date(moment: datetime) -> str:
    return format_datetime(moment.astimezone(UTC).replace(microsecond=0), usegmt=True)
