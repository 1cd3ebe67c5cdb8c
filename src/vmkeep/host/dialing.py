"""Open a TCP connection to a host, and look meanwhile whether it is still wanted.

What `wsman` and `files` share. An address that nobody answers at costs the whole time limit;
whoever holds a VM meanwhile must not find out afterwards that it was too long.
"""

import errno
import os
import selectors
import socket
from collections.abc import Callable
from typing import Final

_SLICE_S: Final = 0.25
# What a connection that is being made says; Windows has a word of its own for it.
_UNDER_WAY: Final = {0, errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", 0)}


def dial(address: str, port: int, timeout_s: float, look: Callable[[], None]) -> socket.socket:
    """Return a connection to the first of a name's addresses that answers; each gets ``timeout_s``.

    ``look`` is called a few times a second, and may raise. Raises OSError, and
    UnicodeError for a name that is none.
    """
    refusal: OSError | None = None
    for family, kind, protocol, _, place in socket.getaddrinfo(address, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            _connect(sock, place, timeout_s, look)
        except OSError as error:
            sock.close()
            refusal = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise refusal or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


def _connect(sock: socket.socket, place: object, timeout_s: float, look: Callable[[], None]) -> None:
    # A request goes out in two pieces, headers and body: the second must not wait until the first is
    # acknowledged, which takes 40 ms here and up to 200 ms on Windows.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    code = sock.connect_ex(place)  # type: ignore[arg-type]
    if code not in _UNDER_WAY:
        raise OSError(code, os.strerror(code))
    left_s = timeout_s
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        while True:
            look()
            if selector.select(min(left_s, _SLICE_S)):
                break
            left_s -= _SLICE_S
            if left_s <= 0:
                raise TimeoutError("timed out")
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    sock.settimeout(timeout_s)
