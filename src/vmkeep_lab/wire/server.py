"""Listen on HTTP and HTTPS, one thread a connection."""

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from vmkeep_lab.wire.certificate import binding_of
from vmkeep_lab.wire.connection import Answers, Connection, Door
from vmkeep_lab.wire.disturbances import Disturbances
from vmkeep_lab.wire.provider import Provider
from vmkeep_lab.wire.service import Service
from vmkeep_lab.wire.settings import Settings

_LOG: Final = logging.getLogger(__name__)
_CLOSE_S: Final = 5.0


class Listeners:
    """The ports of a WinRM service, whatever answers there.

    ``with`` it, it listens on ``http_port``, and on ``https_port`` where a certificate and its key were
    given. Ports are free ones unless asked for; a port that is None is not opened. A host with a
    ``keytab`` is in a domain.
    """

    def __init__(
        self,
        service: Answers,
        users: Mapping[str, str],
        *,
        host_name: str,
        settings: Settings | None = None,
        address: str = "127.0.0.1",
        http_port: int | None = 0,
        https_port: int | None = 0,
        certificate: tuple[Path, Path] | None = None,
        keytab: Path | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._service = service
        self._users = users
        self._host_name = host_name
        self._keytab = keytab
        self._listeners: list[_Listener] = []
        if http_port is not None:
            self._listeners.append(_Listener((address, http_port), self._door(None), None))
        if certificate is not None and https_port is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._listeners.append(_Listener((address, https_port), self._door(certificate[0]), context))

    def _door(self, certificate: Path | None) -> Door:
        return Door(
            self._service,
            self._settings,
            self._host_name,
            certificate is not None,
            self._users,
            self._keytab,
            None if certificate is None else binding_of(certificate),
        )

    @property
    def http_port(self) -> int:
        """The port that speaks HTTP."""
        return next(each.port for each in self._listeners if not each.is_tls)

    @property
    def https_port(self) -> int:
        """The port that speaks HTTPS."""
        return next(each.port for each in self._listeners if each.is_tls)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to accept connections."""
        for listener in self._listeners:
            listener.start()

    def stop(self) -> None:
        """Close the ports and all connections, and wait until their threads have ended."""
        self._service.stopping.set()
        for listener in self._listeners:
            listener.stop()

    def close_connections(self) -> None:
        """Close all connections, as http.sys does with idle ones; clients may come back."""
        for listener in self._listeners:
            listener.close_connections()


class Server(Listeners):
    """A WinRM service in front of a provider: ``Server(provider, {"Administrator": password}, ...)``."""

    def __init__(
        self,
        provider: Provider,
        users: Mapping[str, str],
        *,
        host_name: str,
        settings: Settings | None = None,
        disturbances: Disturbances | None = None,
        address: str = "127.0.0.1",
        http_port: int | None = 0,
        https_port: int | None = 0,
        certificate: tuple[Path, Path] | None = None,
        keytab: Path | None = None,
    ) -> None:
        settings = settings or Settings()
        self.disturbances = disturbances or Disturbances()
        super().__init__(
            Service(provider, host_name, settings, self.disturbances),
            users,
            host_name=host_name,
            settings=settings,
            address=address,
            http_port=http_port,
            https_port=https_port,
            certificate=certificate,
            keytab=keytab,
        )

    def stop(self) -> None:
        """Let what is delayed go on, and stop."""
        self.disturbances.clear()
        super().stop()


class _Listener:
    """One port."""

    def __init__(self, address: tuple[str, int], door: Door, context: ssl.SSLContext | None) -> None:
        self._door = door
        self._context = context
        self._socket = socket.create_server(address, backlog=128)
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._accept, name=f"wsman {self.port}", daemon=True)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def is_tls(self) -> bool:
        return self._context is not None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
        # Closing alone does not wake a thread that waits in accept.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)
        self.close_connections()

    def close_connections(self) -> None:
        with self._lock:
            open_now = dict(self._connections)
        for connection in open_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in open_now.values():
            thread.join(_CLOSE_S)

    def _accept(self) -> None:
        while True:
            try:
                connection, (client, *_) = self._socket.accept()
            except OSError:
                return
            with self._lock:
                full = len(self._connections) >= self._door.settings.max_connections
                if self._stopping or full:
                    connection.close()
                    continue
                thread = threading.Thread(
                    target=self._serve, args=(connection, client), name=f"wsman {client}", daemon=True
                )
                self._connections[connection] = thread
                thread.start()

    def _serve(self, connection: socket.socket, client: str) -> None:
        settings = self._door.settings
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(min(settings.idle_connection_s, settings.max_packet_retrieval_time_s))
            secured = connection
            if self._context is not None:
                secured = self._context.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._connections[secured] = self._connections.pop(connection)
            try:
                with secured.makefile("rb") as stream:
                    Connection(self._door, client).serve(stream, secured)
            finally:
                self._forget(secured)
        except (OSError, ssl.SSLError) as error:
            # The other end went away, was too slow, or does not speak TLS: nobody is left to be told.
            _LOG.debug("connection of %s ended: %s", client, error)
        finally:
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.pop(connection, None)
        connection.close()
