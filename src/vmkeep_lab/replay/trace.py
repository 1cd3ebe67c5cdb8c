"""Read a trace: what was asked and what came back (docs/trace.md, "The file")."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

FORMAT: Final = 1
# An envelope has at most 500 KiB ([MS-WSMV] 3.1.1); a line holds two, in JSON and with names that grew.
MAX_LINE: Final = 8 * 1024 * 1024
MAX_TRACE: Final = 256 * 1024 * 1024


class TraceError(Exception):
    """A file that is no trace, with the line that shows it."""


@dataclass(frozen=True)
class Exchange:
    """One request and its reply, both as XML; ``reply`` is empty where it was none."""

    number: int
    request: str
    status: int
    reply: str


def read_trace(file: Path) -> list[Exchange]:
    """Return all exchanges of a file in their order; TraceError where it is no trace, OSError."""
    with file.open("rb") as stream:
        found: list[Exchange] = []
        for number, line in enumerate(_lines(stream)):
            if number == 0:
                _check_format(line)
            elif "incomplete" in line:
                break  # whoever wrote it ran out of room, and says so
            else:
                found.append(_exchange(line, number))
    if not found:
        raise TraceError("it holds no exchange")
    return found


def _lines(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    size = 0
    for number in range(1, MAX_TRACE):
        line = stream.readline(MAX_LINE + 1)
        if not line:
            return
        size += len(line)
        if len(line) > MAX_LINE or size > MAX_TRACE:
            raise TraceError(f"line {number} is beyond what a trace may hold")
        try:
            found = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise TraceError(f"line {number} is not JSON: is its end missing?") from error
        if not isinstance(found, dict):
            raise TraceError(f"line {number} is no object")
        yield found


def _check_format(line: dict[str, Any]) -> None:
    found = line.get("vmkeep_trace")
    if found != FORMAT or isinstance(found, bool):
        raise TraceError(f"its first line does not say that it is a trace of version {FORMAT}")


def _exchange(line: dict[str, Any], number: int) -> Exchange:
    request, status, reply = (line.get(key) for key in ("request", "status", "reply"))
    if line.get("n") != number or isinstance(line["n"], bool):
        raise TraceError(f"line {number + 1} is not exchange {number}: a part of the trace is missing")
    if not isinstance(request, str) or not isinstance(reply, str):
        raise TraceError(f"exchange {number} has no request or no reply")
    if not isinstance(status, int) or not 100 <= status <= 599:
        raise TraceError(f"exchange {number} has no HTTP status")
    return Exchange(number, request, status, reply if reply.lstrip().startswith("<") else "")
