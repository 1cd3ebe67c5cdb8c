"""Keep objects as files below one directory."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

from vmkeep.clock import SystemClock
from vmkeep.objectstore.errors import (
    OF_ONE_FILE,
    ObjectExists,
    ObjectMissing,
    ObjectShort,
    ObjectUnreadable,
    StoreError,
    StoreForbidden,
    StoreMissing,
    StoreUnavailable,
    StoreUnsupported,
    explain_os_error,
)
from vmkeep.objectstore.files import (
    NO_HARD_LINKS,
    add_name,
    open_to_read,
    read_some,
    read_some_into,
    sync_directory,
    sync_file,
)
from vmkeep.objectstore.names import folder_conflict, is_valid_name, validate_name, validate_prefix
from vmkeep.objectstore.store import ObjectData, ObjectInfo
from vmkeep.objectstore.temporary import TemporaryFile, sweep_folder

_Entries: TypeAlias = list[tuple[str, ObjectInfo | None]]
_Names: TypeAlias = list[str]  # inside the class `list` is the store's request

TEMPORARY_FOLDER: Final = "tmp"
_COMPARE_BYTES: Final = 1 << 20
_FOREIGN_NAMED: Final = 20


class DirectoryStore:
    """A :class:`~vmkeep.objectstore.store.Store` in a local or mounted directory.

    The object ``a/b`` is the file ``a/b``; ``tmp/`` holds unfinished ones. Needs
    hard links (they are how a name is taken without replacing another) and one
    file system below the root. Files are opened anew for each read: an open one
    would still show an object that another process has deleted.
    """

    def __init__(self, root: Path, create: bool = False) -> None:
        self._root = str(root.absolute())
        self.address = self._root
        self._temporary = f"{self._root}/{TEMPORARY_FOLDER}"
        self._known: set[str] = set()  # folders seen to be real, their own names flushed by this process
        # How many entries the last finished listing met that are not ours, and the first few of
        # them; they are left alone.
        self.foreign = 0
        self.foreign_names: tuple[str, ...] = ()
        if create:
            self._make_root()
        self._identity = self._look_at_root()
        self.canonical_address = os.path.normcase(os.path.realpath(self._root))

    def put(self, name: str, data: ObjectData) -> None:
        writer = self.create(name)
        try:
            writer.write(data)
            writer.commit()
        finally:
            writer.abort()

    def put_if_absent(self, name: str, data: ObjectData) -> bool:
        writer = self.create(name)
        try:
            writer.write(data)
            return writer.publish()
        finally:
            writer.abort()

    def create(self, name: str) -> "DirectoryWriter":
        validate_name(name)
        with self._explained(f"store {name!r}", writing=True):
            try:
                self._make_temporary_folder()
                unfinished = TemporaryFile(self._temporary)
            except FileNotFoundError:  # tidied up after we had seen it
                self._known.discard(self._temporary)
                self._make_temporary_folder()
                unfinished = TemporaryFile(self._temporary)
        return DirectoryWriter(self, name, unfinished)

    def get(self, name: str) -> bytes:
        with self._opened(name) as (fd, size):
            return self._read_exactly(name, fd, 0, size)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise ValueError("offset and length must not be negative")
        with self._opened(name) as (fd, size):
            if offset + length > size:
                raise self._short(name, size, offset + length)
            return self._read_exactly(name, fd, offset, length)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        if offset < 0:
            raise ValueError("offset must not be negative")
        with self._opened(name) as (fd, size):
            if offset + buffer.nbytes > size:
                raise self._short(name, size, offset + buffer.nbytes)
            rest, place = buffer.cast("B"), offset
            while rest:
                done = read_some_into(fd, place, rest)
                if done == 0:
                    raise self._short(name, place, offset + buffer.nbytes)
                rest, place = rest[done:], place + done

    def head(self, name: str) -> ObjectInfo | None:
        validate_name(name)
        with self._explained(f"look at {name!r}", writing=False):
            try:
                found = os.lstat(self._path(name))
            except (FileNotFoundError, NotADirectoryError):
                self._require_root()
                return None
        return _info(name, found) if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        validate_prefix(prefix)
        return self._walk(prefix)

    def delete(self, name: str) -> None:
        validate_name(name)
        with self._explained(f"delete {name!r}", writing=True):
            try:
                Path(self._path(name)).unlink()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                self._require_root()
                return
            except PermissionError:
                if not os.path.isdir(self._path(name)):  # what Windows says of a folder
                    raise
                return
            # Deletes are ordered by our callers (the seal goes before the point); a power cut
            # must not undo an earlier one and keep a later one.
            sync_directory(_folder_of(self._path(name)))

    def sweep_temporary(self, now: datetime) -> int:
        """Remove unfinished files that nobody has written to for a day; return how many.

        Those whose writer still lives are left alone where the system can tell.
        """
        with self._explained("remove unfinished files", writing=True):
            return sweep_folder(self._temporary, now)

    # -- taking a name ---------------------------------------------------------------------------

    def take_name(self, name: str, unfinished: TemporaryFile) -> bool:
        """Give the finished file its name unless the name is taken; durable either way on return."""
        with self._explained(f"store {name!r}", writing=True):
            unfinished.finish()
            path = self._path(name)
            folder = _folder_of(path)
            self._make_folders(name)
            try:
                taken = self._link(unfinished.path, path)
            except FileNotFoundError:
                # Somebody tidied up an empty folder after we had seen it.
                self._require_root()
                self._known.clear()
                self._make_folders(name)
                taken = self._link(unfinished.path, path)
            # Also when the name was taken: its owner may not have come to its own flush yet, or may
            # have seen it fail, and our caller may act on what it reads there.
            if not taken:
                self._sync_object(path)
            sync_directory(folder)
            return taken

    def _sync_object(self, path: str) -> None:
        try:
            if stat.S_ISREG(os.lstat(path).st_mode):  # else something foreign, that no reader takes
                sync_file(path)
        except FileNotFoundError:
            return  # deleted since; there is nothing left to rely on

    def _link(self, source: str, target: str) -> bool:
        try:
            add_name(source, target)
        except FileExistsError:
            found = os.lstat(target)
            if stat.S_ISDIR(found.st_mode):
                raise folder_conflict(os.path.relpath(target, self._root), self.address) from None
            # NFS repeats a request whose reply was lost, and then reports our own link as a stranger's
            # (open(2), "NFS"). Not so on Windows, where no link is made.
            return os.name != "nt" and os.path.samestat(found, os.lstat(source))
        except OSError as error:
            if error.errno in NO_HARD_LINKS:
                raise StoreUnsupported(
                    f"the file system of {self.address!r} has no hard links, so vmkeep cannot "
                    "be sure to never replace an object there.",
                    address=self.address,
                ) from error
            if error.errno == errno.EXDEV:
                raise StoreUnsupported(
                    f"{self.address!r} is spread over several file systems.",
                    hint="Keep the whole repository on one file system, without mounts inside.",
                    address=self.address,
                ) from error
            raise
        return True

    def require_same(self, name: str, unfinished: TemporaryFile) -> None:
        """Raise :class:`ObjectExists` unless the object has the bytes of the finished file."""
        try:
            with self._opened(name) as (fd, size), open(unfinished.path, "rb") as mine:
                same = size == os.fstat(mine.fileno()).st_size
                place = 0
                while same and place < size:
                    expected = mine.read(_COMPARE_BYTES)
                    same = bool(expected) and read_some(fd, place, len(expected)) == expected
                    place += len(expected)
        except ObjectMissing:  # a link or the like has the name, or it was deleted just now
            same = False
        if not same:
            raise ObjectExists(
                f"{name!r} exists already in {self.address!r} with other content.",
                name=name,
                address=self.address,
            )

    def _make_temporary_folder(self) -> None:
        if self._temporary not in self._known:
            # Not there when the repository is new or was copied without it. A root that is gone is
            # not made again: its place may be the mount point of the disk that went away.
            self._require_root()
            self._make_folder(self._temporary)
            self._known.add(self._temporary)
            try:
                sweep_folder(
                    self._temporary, SystemClock().now()
                )  # what killed processes left, once per process
            except OSError:
                return  # somebody else's file: in nobody's way

    def _make_folders(self, name: str) -> None:
        """Make the folders above ``name`` and flush their names, once per folder and process.

        A folder that is already there is flushed as well: whoever made it may
        have crashed before doing so.
        """
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join((self._root, *parts[:depth]))
            if folder not in self._known:
                self._make_folder(folder)
                sync_directory(_folder_of(folder))
                self._known.add(folder)

    def _make_folder(self, folder: str) -> None:
        try:
            Path(folder).mkdir(0o700)
        except FileExistsError:
            found = os.lstat(folder)
            if stat.S_ISLNK(found.st_mode):
                raise StoreUnsupported(
                    f"{folder!r} is a link, and vmkeep writes only where it made the folders itself.",
                    hint="Replace the link by the folder it points to.",
                    address=self.address,
                ) from None
            if not stat.S_ISDIR(found.st_mode):
                raise folder_conflict(os.path.relpath(folder, self._root), self.address) from None
        except NotADirectoryError:
            raise folder_conflict(os.path.relpath(folder, self._root), self.address) from None

    # -- reading ---------------------------------------------------------------------------------

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[int, int]]:
        """Open the object of this name for reading; yields descriptor and size."""
        validate_name(name)
        with self._explained_reading(name):
            try:
                fd = open_to_read(self._path(name))
            except (FileNotFoundError, NotADirectoryError):
                self._require_root()
                raise self._missing(name) from None
            except OSError as error:
                if error.errno == errno.ELOOP:  # a link is not an object
                    raise self._missing(name) from None
                raise
            try:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode):
                    raise self._missing(name)
                yield fd, found.st_size
            finally:
                os.close(fd)

    def _read_exactly(self, name: str, fd: int, offset: int, length: int) -> bytes:
        """Return ``length`` bytes, which the caller knows to be within the file's size."""
        content = read_some(fd, offset, length)
        while len(content) < length:
            more = read_some(fd, offset + len(content), length - len(content))
            if not more:
                raise self._short(name, offset + len(content), offset + length)
            content += more
        return content

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        foreign: _Names = []
        count = 0
        # Folders still to be entered and objects still to be told, the next one last.
        pending: _Entries = [(prefix, None)]
        while pending:
            name, info = pending.pop()
            if info is not None:
                yield info
                continue
            found, strangers = self._scan(name)
            count += len(strangers)
            foreign += strangers[: _FOREIGN_NAMED - len(foreign)]
            # "a-b" < "a/c" < "a0": as in the names of objects, a folder sorts with its slash.
            found.sort(key=lambda entry: entry[0], reverse=True)
            pending += found
        self._require_root()
        self.foreign, self.foreign_names = count, tuple(foreign)

    def _scan(self, prefix: str) -> tuple[_Entries, _Names]:
        """Return the entries of one folder (folders end in ``/``) and the names of what is not ours."""
        found: _Entries = []
        strangers: _Names = []
        with self._explained(f"list {prefix!r}", writing=False):
            try:
                scan = os.scandir(self._path(prefix))
            except (FileNotFoundError, NotADirectoryError):
                self._require_root()
                return found, strangers
            with scan:
                for entry in scan:
                    name = prefix + entry.name
                    if name == TEMPORARY_FOLDER:
                        continue
                    if not is_valid_name(name):
                        strangers.append(name)
                    elif entry.is_dir(follow_symlinks=False):
                        found.append((name + "/", None))
                    elif not entry.is_file(follow_symlinks=False):
                        strangers.append(name)
                    else:
                        try:
                            found.append((name, _info(name, entry.stat(follow_symlinks=False))))
                        except FileNotFoundError:  # deleted since the folder was read
                            continue
        return found, strangers

    # -- the root --------------------------------------------------------------------------------

    def _make_root(self) -> None:
        with self._explained("create the repository's folder", writing=True):
            made = []
            folder = Path(self._root)
            while not os.path.lexists(folder):
                made.append(folder)
                folder = folder.parent
            for folder in reversed(made):
                try:
                    folder.mkdir(0o700)
                except FileExistsError:  # by somebody else, just now; judged by _look_at_root
                    pass
                except (NotADirectoryError, FileNotFoundError):  # the latter on Windows
                    raise StoreMissing(
                        f"{self.address!r} cannot be made: {str(folder.parent)!r} is not a directory.",
                        hint="Choose another place.",
                        address=self.address,
                    ) from None
                sync_directory(folder.parent)

    def _look_at_root(self) -> tuple[int, int]:
        try:
            found = Path(self._root).stat()
        except (FileNotFoundError, NotADirectoryError):
            raise StoreMissing(f"{self.address!r} does not exist.", address=self.address) from None
        except OSError as error:
            raise explain_os_error(error, "open", address=self.address, writing=False) from error
        if not stat.S_ISDIR(found.st_mode):
            raise StoreMissing(f"{self.address!r} is not a directory.", address=self.address)
        return found.st_dev, found.st_ino

    def _require_root(self) -> None:
        """Raise unless the root is still the directory that was opened.

        An unmounted disk must not look like a store whose objects are all gone:
        decisions to delete rest on absence.
        """
        if self._look_at_root() != self._identity:
            raise StoreUnavailable(
                f"{self.address!r} was unmounted or replaced while it was in use.", address=self.address
            )

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _missing(self, name: str) -> ObjectMissing:
        return ObjectMissing(f"no object {name!r} is in {self.address!r}.", name=name, address=self.address)

    def _short(self, name: str, size: int, wanted: int) -> ObjectShort:
        return ObjectShort(
            f"{name!r} in {self.address!r} ends at byte {size}, before {wanted}.",
            name=name,
            address=self.address,
            size=size,
        )

    @contextmanager
    def _explained(self, action: str, *, writing: bool) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise explain_os_error(error, action, address=self.address, writing=writing) from error

    @contextmanager
    def _explained_reading(self, name: str) -> Iterator[None]:
        """Tell an object that cannot be read from a store that cannot."""
        try:
            yield
        except OSError as error:
            explained = explain_os_error(error, f"read {name!r}", address=self.address, writing=False)
            raise self._of_one_object(name, error, explained) or explained from error

    def _of_one_object(self, name: str, error: OSError, explained: StoreError) -> ObjectUnreadable | None:
        if error.errno not in OF_ONE_FILE:
            return None
        self._require_root()
        try:
            with os.scandir(self._root) as entries:
                next(entries, None)
        except OSError:
            return None
        forbidden = isinstance(explained, StoreForbidden)
        hint = explained.hint if forbidden else None
        return ObjectUnreadable(
            explained.message, hint=hint, name=name, forbidden=forbidden, **explained.context
        )


class DirectoryWriter:
    """An unfinished object; its file in ``tmp/`` goes away with commit, abort or any failure."""

    def __init__(self, store: DirectoryStore, name: str, unfinished: TemporaryFile) -> None:
        self._store = store
        self._name = name
        self._unfinished: TemporaryFile | None = unfinished

    def write(self, data: ObjectData) -> None:
        unfinished = self._open()
        try:
            unfinished.write(data)
        except OSError as error:
            self.abort()
            raise explain_os_error(
                error, f"store {self._name!r}", address=self._store.address, writing=True
            ) from error
        except BaseException:
            # Interrupted in the middle: what is in the file is not what the caller believes.
            self.abort()
            raise

    def commit(self) -> None:
        unfinished = self._open()
        try:
            if not self._store.take_name(self._name, unfinished):
                self._store.require_same(self._name, unfinished)
        finally:
            self.abort()

    def publish(self) -> bool:
        """Make the object visible unless its name is taken; tell which. Abort afterwards."""
        return self._store.take_name(self._name, self._open())

    def abort(self) -> None:
        if self._unfinished is not None:
            unfinished, self._unfinished = self._unfinished, None
            unfinished.remove()

    def _open(self) -> TemporaryFile:
        if self._unfinished is None:
            raise ValueError("the writer is closed")
        return self._unfinished


def _info(name: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]
