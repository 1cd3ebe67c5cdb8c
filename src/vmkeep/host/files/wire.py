"""Ask one connected SMB server: each question once, its answer or the reason there is none.

What goes wrong is told in two ways only: :class:`Refused`, the server's own
status for this question, and :class:`Lost`, the end of a handle or of the
connection, after which nobody knows what the server did.
"""

import logging
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from smbprotocol.exceptions import SMBException, SMBResponseException
from smbprotocol.file_info import FileInformationClass, FileSystemInformationClass, InfoType
from smbprotocol.ioctl import CtlCode, IOCTLFlags, SMB2IOCTLRequest
from smbprotocol.open import (
    CreateDisposition,
    CreateOptions,
    FilePipePrinterAccessMask,
    ImpersonationLevel,
    RequestedOplockLevel,
    ShareAccess,
    SMB2CloseRequest,
    SMB2CreateRequest,
    SMB2QueryDirectoryRequest,
    SMB2QueryInfoRequest,
    SMB2ReadRequest,
)
from smbprotocol.tree import TreeConnect

from vmkeep.host.files import answers, statuses
from vmkeep.host.files.connection import HardenedConnection, Untrusted
from vmkeep.host.files.facts import FileFacts, FolderEntry
from vmkeep.host.files.statuses import Step
from vmkeep.ranges import ByteRange

_log: Final = logging.getLogger(__name__)

# protocols.md 3.1 and 3.3: larger requests fall out of the processor's cache, more of them gain nothing.
PIECE_BYTES: Final = 1 << 20
PIECES_AT_ONCE: Final = 4
_ANSWER_BYTES: Final = 64 << 10  # what one credit pays for

# What smbprotocol and the operating system raise when a connection or an answer is broken.
BROKEN: Final = (
    SMBException, Untrusted, OSError, ValueError, LookupError, TypeError, AttributeError, struct.error
)  # fmt: skip


Parsed = TypeVar("Parsed")


class Lost(Exception):
    """The connection is gone, or only the handle; what was asked may or may not have been done."""

    def __init__(self, reason: str, *, only_handle: bool = False, untrusted: bool = False) -> None:
        super().__init__(reason)
        self.only_handle = only_handle
        self.untrusted = untrusted


class Refused(Exception):
    """The server's status for one question; ``body`` is what came with it."""

    def __init__(self, status: int, step: Step, body: bytes = b"") -> None:
        super().__init__(f"status 0x{status:08X}")
        self.status = status
        self.step = step
        self.body = body


class Wire:
    """One connection to one server with one account signed in; made by ``login.connect``."""

    def __init__(self, connection: HardenedConnection, login: Any, address: str) -> None:
        self._connection = connection
        self._login = login
        self._address = address
        self._trees: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._open: set[bytes] = set()
        self._opening = 0
        self.has_unheard_opens = False
        """Whether somebody stopped waiting for a file to be opened, which the server may have done since."""
        _keep_memory_of_answers()

    @property
    def login_id(self) -> int:
        """The number by which a later connection asks the server to end this one."""
        return int(self._login.session_id)

    @property
    def protection(self) -> str:
        """How answers are protected, for people: ``AES-GMAC``, ``AES-CMAC``, ``HMAC-SHA256`` or a cipher."""
        connection = self._connection
        if self._login.encrypt_data:
            ciphers = {1: "AES-128-CCM", 2: "AES-128-GCM", 3: "AES-256-CCM", 4: "AES-256-GCM"}
            return ciphers.get(connection.cipher_id or 1, "unknown cipher")
        if connection.dialect < 0x0300:
            return "HMAC-SHA256"
        return "AES-GMAC" if connection.signing_algorithm_id == 2 else "AES-CMAC"

    def open_handles(self) -> int:
        """Count the files the server may hold open for us, those included whose answer is under way."""
        with self._lock:
            return len(self._open) + self._opening

    def open(self, share: str, path: str, *, folder: bool = False, data: bool = True) -> "Handle":
        """Open a file or folder for reading, in nobody's way; without ``data``, to ask for its facts only."""
        tree = self._tree(share)
        create = SMB2CreateRequest()
        create["requested_oplock_level"] = RequestedOplockLevel.SMB2_OPLOCK_LEVEL_NONE
        create["impersonation_level"] = ImpersonationLevel.Impersonation
        create["desired_access"] = FilePipePrinterAccessMask.FILE_READ_ATTRIBUTES | (
            FilePipePrinterAccessMask.FILE_READ_DATA if data else 0
        )
        # hyperv-backup-api.md 2.4: anything less than full sharing would stop the host's merge.
        create["share_access"] = (
            ShareAccess.FILE_SHARE_READ | ShareAccess.FILE_SHARE_WRITE | ShareAccess.FILE_SHARE_DELETE
        )
        create["create_disposition"] = CreateDisposition.FILE_OPEN
        kind = CreateOptions.FILE_DIRECTORY_FILE if folder else CreateOptions.FILE_NON_DIRECTORY_FILE
        create["create_options"] = kind if data else 0
        create["buffer_path"] = path.encode("utf-16-le") if path else b"\x00\x00"
        with self._lock:
            self._opening += 1
        try:
            file_id = _parse(answers.file_id_of, self.ask(create, tree, Step.OPEN))
        except (Refused, Lost) as error:
            if isinstance(error, Refused) or error.only_handle:
                with self._lock:  # after any other failure it stays counted until the login is buried
                    self._opening -= 1
            raise
        except BaseException:  # whoever watches, or a signal, ended the wait
            self.has_unheard_opens = True
            raise
        with self._lock:
            self._opening -= 1
            self._open.add(file_id)
        return Handle(self, tree, file_id)

    def ask(self, message: Any, tree: Any, step: Step) -> bytes:
        """Send one question and return the body of its answer."""
        try:
            request = self._connection.send(message, self._login.session_id, tree.tree_connect_id)
        except BROKEN as error:
            raise as_lost(error) from error
        return self.answer_to(request, step)

    def ask_read(self, handle: "Handle", offset: int, length: int, *, wait: bool) -> tuple[Any, int] | None:
        """Send one READ; return it and the length asked for. None: credits lack, and ``wait`` is false."""
        connection = self._connection
        length = min(length, PIECE_BYTES, connection.max_read_size, connection.affordable_bytes())
        read = SMB2ReadRequest()
        read["length"] = length
        read["offset"] = offset
        read["file_id"] = handle.file_id
        read["padding"] = 0x50  # where the data would best begin in the answer ([MS-SMB2] 2.2.19)
        options = {
            "sid": self._login.session_id,
            "tid": handle.tree.tree_connect_id,
            # What was spent, and never less than a full piece: credits lost in a squeeze grow back.
            "credit_request": PIECE_BYTES // _ANSWER_BYTES,
        }
        try:
            send = connection.send if wait else connection.send_within_credits
            request = send(read, **options)
        except BROKEN as error:
            raise as_lost(error) from error
        return None if request is None else (request, length)

    def answer_to(self, request: Any, step: Step) -> bytes:
        """Wait for the answer to one question and return its body."""
        try:
            return bytes(self._connection.receive(request)["data"].get_value())
        except SMBResponseException as error:
            status, body = int(error.status), bytes(error.header["data"].get_value())
            if status in statuses.CONNECTION_GONE or status in statuses.HANDLE_GONE:
                raise Lost(f"status 0x{status:08X}", only_handle=status in statuses.HANDLE_GONE) from error
            raise Refused(status, step, body) from error
        except BROKEN as error:
            raise as_lost(error) from error

    def close_handle(self, handle: "Handle") -> None:
        """Close a handle; when this returns, the server has it no more. Raises :class:`Lost`."""
        with self._lock:
            if handle.file_id not in self._open:
                return
        close = SMB2CloseRequest()
        close["file_id"] = handle.file_id
        try:
            self.ask(close, handle.tree, Step.READ)
        except Lost as error:
            if not error.only_handle:
                raise
        except Refused as error:
            raise Lost(f"a handle could not be closed: {error}") from error
        with self._lock:
            self._open.discard(handle.file_id)

    def log_off(self) -> None:
        """Say goodbye; the server closes whatever is still open. Raises :class:`Lost`."""
        try:
            self._login.disconnect(close=False)
        except BROKEN as error:
            raise as_lost(error) from error
        with self._lock:
            self._open.clear()
            self._opening = 0

    def cut(self) -> None:
        """End the connection without asking anybody; safe to repeat."""
        cut(self._connection)

    def _tree(self, share: str) -> Any:
        with self._lock:
            tree = self._trees.get(share.upper())
        if tree is None:
            tree = TreeConnect(self._login, f"\\\\{self._address}\\{share}")
            try:
                tree.connect()  # below SMB 3.1.1 this also proves that nobody bent the negotiation
            except SMBResponseException as error:
                if error.status in statuses.CONNECTION_GONE:
                    raise Lost(f"status 0x{error.status:08X}") from error
                raise Refused(int(error.status), Step.SHARE) from error
            except BROKEN as error:
                raise as_lost(error) from error
            with self._lock:
                self._trees[share.upper()] = tree
        return tree


class Handle:
    """One open file on one :class:`Wire`; it ends with it."""

    def __init__(self, wire: Wire, tree: Any, file_id: bytes) -> None:
        self.wire = wire
        self.tree = tree
        self.file_id = file_id

    def close(self) -> None:
        self.wire.close_handle(self)

    def facts(self) -> FileFacts:
        """Ask for size, times, number and kind; two questions."""
        volume = self._query(
            InfoType.SMB2_0_INFO_FILESYSTEM, FileSystemInformationClass.FILE_FS_VOLUME_INFORMATION
        )
        every = self._query(InfoType.SMB2_0_INFO_FILE, FileInformationClass.FILE_ALL_INFORMATION)
        return _parse(answers.facts_of, every, _parse(answers.volume_serial, volume))

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` with several requests on their way at once; short only at the end of the file."""
        pending: deque[tuple[Any, int, int]] = deque()
        sent = 0
        try:
            while True:
                while sent < len(buffer) and len(pending) < PIECES_AT_ONCE:
                    asked = self.wire.ask_read(self, offset + sent, len(buffer) - sent, wait=not pending)
                    if asked is None:
                        break
                    pending.append((asked[0], sent, asked[1]))
                    sent += asked[1]
                if not pending:
                    return sent
                request, at, length = pending.popleft()
                got = self._take(request, buffer[at : at + length])
                if got < length:
                    self._let_go(pending)
                    if not got:
                        return at
                    sent = at + got  # whether this is the end, only the next answer tells
        except Refused:
            self._let_go(pending)
            raise

    def _take(self, request: Any, piece: memoryview) -> int:
        try:
            body = self.wire.answer_to(request, Step.READ)
        except Refused as error:
            if error.status == statuses.END_OF_FILE:
                return 0
            raise
        data = _parse(answers.read_data, body, len(piece))
        piece[: len(data)] = data
        return len(data)

    def _let_go(self, pending: deque[tuple[Any, int, int]]) -> None:
        """Take the answers nobody needs, so that their credits come back."""
        while pending:
            try:
                self.wire.answer_to(pending.popleft()[0], Step.READ)
            except Refused:
                continue  # the error that matters is already known

    def allocated(self, start: int, end: int) -> Iterator[ByteRange]:
        """Yield the allocated ranges of a sparse file in ``[start, end)``, as many questions as needed."""
        at, window = start, end - start
        while at < end:
            stop = min(end, at + window)
            try:
                body = self._control(CtlCode.FSCTL_QUERY_ALLOCATED_RANGES, answers.range_question(at, stop))
            except Refused as error:
                if error.status == statuses.BUFFER_TOO_SMALL and window > _ANSWER_BYTES:
                    window //= 2  # Samba answers all or nothing
                    continue
                if error.status != statuses.BUFFER_OVERFLOW:
                    raise
                body, stop = error.body, at  # Windows answers what fits ([MS-FSA] 2.1.5.10.22)
            ranges = _parse(answers.allocated_ranges, _parse(answers.control_output, body), at)
            yield from ranges
            if stop == at and not ranges:
                raise Lost("a list of ranges does not advance", untrusted=True)
            at = stop if stop > at else ranges[-1].end

    def entries(self) -> Iterator[FolderEntry]:
        """Yield what an open folder holds, in the server's order."""
        while True:
            query = SMB2QueryDirectoryRequest()
            query["file_information_class"] = FileInformationClass.FILE_ID_BOTH_DIRECTORY_INFORMATION
            query["file_id"] = self.file_id
            query["output_buffer_length"] = _ANSWER_BYTES
            query["buffer"] = "*".encode("utf-16-le")
            try:
                body = self.wire.ask(query, self.tree, Step.READ)
            except Refused as error:
                if error.status in {statuses.NO_MORE_FILES, statuses.NO_SUCH_FILE}:
                    return
                raise
            yield from _parse(lambda b: list(answers.folder_entries(answers.query_output(b))), body)

    def _query(self, info_type: int, info_class: int) -> bytes:
        query = SMB2QueryInfoRequest()
        query["info_type"] = info_type
        query["file_info_class"] = info_class
        query["output_buffer_length"] = _ANSWER_BYTES
        query["file_id"] = self.file_id
        return _parse(answers.query_output, self.wire.ask(query, self.tree, Step.READ))

    def _control(self, code: int, question: bytes) -> bytes:
        control = SMB2IOCTLRequest()
        control["ctl_code"] = code
        control["file_id"] = self.file_id
        control["max_output_response"] = _ANSWER_BYTES
        control["flags"] = IOCTLFlags.SMB2_0_IOCTL_IS_FSCTL
        control["buffer"] = question
        return self.wire.ask(control, self.tree, Step.READ)


def _keep_memory_of_answers() -> None:
    """Teach glibc to keep the memory of answers between reads; elsewhere nothing happens.

    It gives back to the kernel what lies free at the top of its heap beyond twice the largest block
    it has seen freed (mallopt(3), M_MMAP_THRESHOLD). Answers of 1 MiB would go and come with every
    read, each page a fault: twice the processor time. This block is freed at once and never touched.
    """
    bytearray(2 * PIECES_AT_ONCE * PIECE_BYTES)


def cut(connection: HardenedConnection) -> None:
    """End a connection without asking anybody; safe to repeat."""
    if connection.transport is None:
        return
    try:
        connection.disconnect(close=False)
    except OSError as error:
        _log.debug("a connection could not be ended in order: %s", error)


def as_lost(error: BaseException) -> Lost:
    """Say of what broke a connection that it did."""
    return Lost(str(error) or type(error).__name__, untrusted=isinstance(error, Untrusted))


def _parse(parser: Callable[..., Parsed], *arguments: object) -> Parsed:
    """Apply a parser of answers; what breaks the rules ends the connection."""
    try:
        return parser(*arguments)
    except answers.MalformedAnswer as error:
        raise Lost(str(error), untrusted=True) from error
