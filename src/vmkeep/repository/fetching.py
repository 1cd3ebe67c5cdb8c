"""Read whole objects, but none larger than vmkeep writes: a planted one must not fill the memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vmkeep.objectstore.errors import ObjectUnreadable
from vmkeep.objectstore.store import ObjectInfo, Store
from vmkeep.repository.errors import NotAllowed, Tampered, Unreadable

# A box holds at most 256 MiB after decompression, and is stored no larger than that and some.
MAX_BOX_BYTES: Final = (256 << 20) + 4096


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Tell an object that the store has and cannot read as Unreadable, a finding like damage.

    A store that does not answer at all stays the error it is.
    """
    try:
        yield
    except ObjectUnreadable as error:
        kind = NotAllowed if error.context.get("forbidden") else Unreadable
        raise kind(error.message, hint=error.hint, **{**error.context, "object": name}) from error


def fetch(store: Store, what: ObjectInfo | str, limit: int = MAX_BOX_BYTES) -> bytes:
    """Return an object of at most ``limit`` bytes; its size is asked for unless a listing told it.

    Raises ObjectMissing, or Tampered for one that is larger than any writer makes it or
    cannot be read.
    """
    info = store.head(what) if isinstance(what, str) else what
    if info is not None and info.size > limit:
        raise Tampered(f"the object {info.name} is larger than any vmkeep writes.", object=info.name)
    name = info.name if info is not None else str(what)
    with reading(name):
        return store.get(name)
