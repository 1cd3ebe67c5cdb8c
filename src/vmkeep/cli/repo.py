"""`vmkeep repo`: make, look at and examine repositories, and manage their keys."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from vmkeep.cli.frame import (
    AcceptRollback,
    AsJson,
    PasswordCommand,
    PasswordFile,
    RepositoryArgument,
    announce,
    answer,
    open_password,
    open_repository,
    open_store_of,
    open_with,
    progress,
    settings,
    share_of,
    warn,
)
from vmkeep.cli.text import rounded
from vmkeep.errors import ExitCode, UsageError, VmkeepError
from vmkeep.objectstore.store import Store
from vmkeep.repository.parameters import Parameters
from vmkeep.secrets import Secret, SecretUnavailable, read_password

app = typer.Typer(help="Make, look at and examine repositories.", no_args_is_help=True, rich_markup_mode=None)
keys = typer.Typer(
    help="Manage the passwords that open a repository.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(keys, name="key")
_ADD_RECOVERY_KEY: Final = "add one with `vmkeep repo key add --recovery-key-file FILE`"


@app.command("init")
def init(
    repo: RepositoryArgument,
    no_recovery_key: Annotated[
        bool,
        typer.Option("--no-recovery-key", help="Make no recovery key; a lost password then means lost data."),
    ] = False,
    recovery_key_file: Annotated[
        Path | None,
        typer.Option(
            "--recovery-key-file", metavar="FILE", help="Write the recovery key into this new file."
        ),
    ] = None,
    chunk_size: Annotated[
        int,
        typer.Option(
            "--chunk-size", metavar="BYTES", help="Unit of deduplication: a power of two, 16384 to 1048576."
        ),
    ] = 64 << 10,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    as_json: AsJson = False,
) -> None:
    """Make an empty repository, with a password and a recovery key.

    The folder is made if it is missing. At a terminal the recovery key is shown once; elsewhere none is
    made unless --recovery-key-file says where it goes.
    Exit codes: 0 made; 1 something is there already or the place cannot be written;
    11 the store is unsuitable.
    """
    from vmkeep.cli.frame import state_folder
    from vmkeep.repository.heads import Heads
    from vmkeep.repository.keys import new_recovery_key

    if chunk_size not in (1 << n for n in range(14, 21)):
        raise UsageError("--chunk-size is a power of two from 16384 to 1048576.")
    if no_recovery_key and recovery_key_file is not None:
        raise UsageError("--no-recovery-key and --recovery-key-file contradict each other.")
    passwords = {"password": open_password(password_file, password_command, new=True)}
    interactive = sys.stdin.isatty() and sys.stderr.isatty()
    if not no_recovery_key and (recovery_key_file is not None or interactive):
        passwords["recovery"] = new_recovery_key()
    store, parameters = _make(repo, passwords, recovery_key_file, chunk_size)
    folder = state_folder()
    if folder is not None:
        try:
            Heads(folder, parameters.repository, store.canonical_address).know_place()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            warn(f"this machine could not note that it made the repository: {reason}.")
    if not no_recovery_key and "recovery" not in passwords:
        warn(f"no recovery key was made: {_ADD_RECOVERY_KEY}.")
    document = {
        "message_type": "initialized",
        "id": parameters.repository.hex(),
        "repository": repo,
        "recovery_key": "recovery" in passwords,
    }
    made = f"made the repository {parameters.repository.hex()[:12]} at {repo}"
    announce(document, [] if settings.quiet else [made], made)


def _make(
    repo: str, passwords: Mapping[str, Secret], recovery_key_file: Path | None, chunk_size: int
) -> tuple[Store, Parameters]:
    """Make the repository; its recovery key is handed over first, so that none exists without."""
    from vmkeep.clock import SystemClock
    from vmkeep.objectstore.address import open_store
    from vmkeep.objectstore.errors import StoreMissing
    from vmkeep.repository.errors import RepositoryError, RepositoryExists
    from vmkeep.repository.repository import Repository, read_parameters

    repository_id = os.urandom(16)
    store: Store | None = None

    def is_made() -> bool:
        try:
            return store is not None and read_parameters(store).repository == repository_id
        except RepositoryError:
            return False  # there is none, or one that somebody else made

    with _handed_over(passwords.get("recovery"), recovery_key_file, is_made):
        try:
            store = open_store(repo, create=True)
        except StoreMissing as error:
            raise RepositoryExists(
                f"{repo} is no folder.", hint="Choose the name of a new folder."
            ) from error
        return store, Repository.create(
            store, passwords, SystemClock(), chunk_size=chunk_size, repository_id=repository_id
        )


@contextmanager
def _handed_over(key: Secret | None, file: Path | None, is_stored: Callable[[], bool]) -> Iterator[None]:
    """Give a recovery key to the user for what follows; if that fails, take the file back.

    A file that opens nothing would be taken for a recovery key, and be in the way
    of the next try. It stays when the key was stored all the same, and when the
    store does not tell: then the error is not the whole truth.
    """
    from vmkeep.objectstore.errors import StoreError

    if key is not None:
        _hand_over(key, file)
    try:
        yield
    except BaseException:
        if key is not None and file is not None:
            try:
                stays = is_stored()
            except StoreError:
                stays = True
            if stays:
                warn(f"{str(file)!r} was kept: its recovery key may have been stored.")
            else:
                file.unlink(missing_ok=True)
        raise


def _hand_over(key: Secret, file: Path | None) -> None:
    """Give the recovery key to the user: into a file only they can read, or onto the terminal once."""
    if file is not None:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(key.reveal() + b"\n")
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        return
    sys.stderr.write("\nRecovery key, shown this once. Write it down and keep it away from this machine:\n")
    sys.stderr.write(f"\n  {key.reveal().decode()}\n\n")
    for _ in range(3):
        typed = typer.prompt("Type its last four characters", err=True)
        if typed.strip().upper() == key.reveal().decode()[-4:]:
            return
    raise UsageError("these are not the last four characters; no key was made.")


@app.command("info")
def info(
    repo: RepositoryArgument,
    accept_rollback: AcceptRollback = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a repository is and how much it holds; with a password also how many restore points.

    Exit codes: 0 shown; 10 no repository; 12 wrong password; 14 damaged, rolled back or replaced.
    """
    from vmkeep.cli.frame import PASSWORD_VARIABLE
    from vmkeep.repository.keys import key_infos
    from vmkeep.repository.repository import read_parameters

    store = open_store_of(repo)
    parameters = read_parameters(store)
    sizes = {prefix: [o.size for o in store.list(prefix)] for prefix in ("packs/", "maps/")}
    document: dict[str, Any] = {
        "id": parameters.repository.hex(),
        "repository": repo,
        "version": 1,
        "created": parameters.created,
        "chunk_size": parameters.chunk_size,
        "put_if_absent": parameters.put_if_absent,
        "packs": len(sizes["packs/"]),
        "map_packs": len(sizes["maps/"]),
        "bytes_stored": sum(sizes["packs/"]) + sum(sizes["maps/"]),
    }
    found, problems = key_infos(store)
    document["keys"] = [vars(key) for key in found]
    document["recovery_key"] = any(key["kind"] == "recovery" for key in document["keys"])
    password = read_password(
        file=password_file, command=password_command, environment=os.environ, variable=PASSWORD_VARIABLE
    )
    if password is not None:
        with open_with(store, password) as repository:
            listing = repository.listing(accept_rollback=accept_rollback)
        document["points"] = len(listing.points)
        document["vms"] = len({sealed.point.vm.id for sealed in listing.points})
        document["protected_bytes"] = sum(
            disk.size for sealed in listing.points for disk in sealed.point.disks
        )
    lines = [
        f"repository {document['id']}",
        f"  at        {repo}, format version 1, created {document['created']}",
        f"  chunks    {rounded(parameters.chunk_size)}",
        f"  packs     {document['packs']} of data, {document['map_packs']} of maps, "
        f"{rounded(document['bytes_stored'])}",
        f"  keys      {', '.join(key['kind'] + ' ' + key['id'][:12] for key in document['keys'])}",
    ]
    if not document["recovery_key"]:
        lines.append(f"            no recovery key: {_ADD_RECOVERY_KEY}")
    if password is not None:
        lines.append(f"  points    {document['points']} of {document['vms']} VMs")
    answer(document, lines)
    _tell(problems)


def _tell(problems: Sequence[VmkeepError]) -> None:
    """Name what is wrong beside an answer, and end with its exit code."""
    for problem in problems:
        warn(problem.message)
    if problems:
        raise typer.Exit(ExitCode.MISMATCH)


@app.command("check")
def check(
    repo: RepositoryArgument,
    read_data: Annotated[
        str | None,
        typer.Option(
            "--read-data",
            metavar="N%|all",
            help="Also read and verify this share of the stored bytes, in whole packs. 5 means 5%, 0.5 means "
            "0.5%.",
        ),
    ] = None,
    keyless: Annotated[
        bool,
        typer.Option(
            "--keyless",
            help="Without the password: find rot and what is missing; see above.",
        ),
    ] = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    as_json: AsJson = False,
) -> None:
    """Check a repository: every restore point complete, every object authentic; say which points are whole.

    --read-data also reads the stored data and verifies it: only then a restore point can be called
    whole. `check` examines the repository; `verify` (a later version) proves that a VM boots.

    --keyless needs no password. It finds rot in every object, packs that are missing or are not those
    their run listed, and manifests and seals without their counterpart. It cannot find objects of one
    kind that changed places, what somebody forged with right checksums, a removed inventory or
    piece of evidence, a restore point removed with everything about it, or which restore points a
    damaged pack belongs to. Only a check with the password proves a repository.

    Exit codes: 0 all is well; 10 no repository; 12 wrong password; 14 something is damaged or missing.
    """
    from vmkeep.cli.findings import report_fields, report_lines
    from vmkeep.repository.examine.keyed import check as check_repository
    from vmkeep.repository.examine.keyless import check_keyless
    from vmkeep.repository.repository import read_parameters

    share = share_of(read_data, "--read-data")
    if keyless:
        if read_data is not None:
            raise UsageError("--keyless reads all packs anyway; leave --read-data away.")
        store = open_store_of(repo)
        report = check_keyless(store, read_parameters(store), progress())
    else:
        with open_repository(repo, password_file, password_command) as repository:
            report = check_repository(repository, share, progress())
    answer(report_fields(report), report_lines(report, keyless=keyless))
    if not report.ok:
        raise typer.Exit(ExitCode.MISMATCH)


@app.command("repair")
def repair(
    repo: RepositoryArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    as_json: AsJson = False,
) -> None:
    """Read everything, and condemn damaged packs so that later runs store their content again.

    A damaged pack that no restore point needs any more is deleted, if the store lets you, after what
    can be read only there was copied; a missing one is struck off. Restore points that need a damaged
    part stay incomplete until a later run of the VM brings the same content; such a pack is kept.
    Exit codes: 0 nothing is damaged; 10 no repository; 12 wrong password; 14 damage was found.
    """
    from vmkeep.cli.findings import report_lines
    from vmkeep.clock import SystemClock
    from vmkeep.repository.repair import repair as repair_repository

    with open_repository(repo, password_file, password_command) as repository:
        done = repair_repository(repository, SystemClock(), progress(), dry_run=dry_run)
    report = done.report
    document = {
        "message_type": "summary",
        "ok": report.ok,
        "dry_run": dry_run,
        "condemned": done.condemned,
        "removed": done.removed,
        "kept": done.kept,
        "frames_copied": done.copied,
        "problems": [vars(problem) for problem in report.problems],
    }
    condemned = (
        "would be condemned" if dry_run else "condemned: the next run of each VM stores its content again"
    )
    removed = "would be removed" if dry_run else "removed"
    lines = [line for line in report_lines(report) if not line.startswith("note")] if not report.ok else []
    lines += [f"{name} {condemned}" for name in done.condemned]
    lines += [f"{name} {removed}: no restore point needs it" for name in done.removed]
    lines += [f"{name} kept: {reason}" for name, reason in done.kept.items()]
    answer(document, lines or ["nothing is damaged"])
    if not report.ok:
        raise typer.Exit(ExitCode.MISMATCH)


@keys.command("list")
def key_list(repo: RepositoryArgument, as_json: AsJson = False) -> None:
    """List the keys that open a repository.

    What is wrong is named on standard error; all intact keys are listed all the same.
    Exit codes: 0 listed; 10 no repository; 11 made by a newer vmkeep; 14 a key object is damaged.
    """
    from vmkeep.repository.keys import key_infos
    from vmkeep.repository.repository import read_parameters

    store = open_store_of(repo)
    read_parameters(store)
    keys_found, problems = key_infos(store)
    found = [vars(key) for key in keys_found]
    answer(found, [f"{key['id']}  {key['kind']:9} {key['created']}" for key in found])
    _tell(problems)


@keys.command("add")
def key_add(
    repo: RepositoryArgument,
    new_password_file: Annotated[
        Path | None,
        typer.Option("--new-password-file", metavar="FILE", help="Read the new password from a file."),
    ] = None,
    recovery_key_file: Annotated[
        Path | None,
        typer.Option(
            "--recovery-key-file", metavar="FILE", help="Make a recovery key and write it into this new file."
        ),
    ] = None,
    accept_rollback: AcceptRollback = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    as_json: AsJson = False,
) -> None:
    """Add a password or a recovery key; a password the repository has already is needed too.

    Without --new-password-file and --recovery-key-file a new password is asked for at a terminal.
    Exit codes: 0 added; 10 no repository; 12 wrong password; 14 rolled back or replaced.
    """
    from vmkeep.clock import SystemClock
    from vmkeep.repository.keys import PREFIX, KeyKind, new_recovery_key
    from vmkeep.repository.manifest import format_time

    with open_repository(repo, password_file, password_command) as repository:
        repository.listing(accept_rollback=accept_rollback)
        kind: KeyKind = "password" if recovery_key_file is None else "recovery"
        secret = new_recovery_key() if kind == "recovery" else _new_password(new_password_file)
        created = format_time(SystemClock().now())
        key_id, stored = repository.ring.wrap(repository.parameters, secret, kind, created)
        with _handed_over(
            secret if kind == "recovery" else None,
            recovery_key_file,
            lambda: repository.store.head(PREFIX + key_id) is not None,
        ):
            repository.store.put(PREFIX + key_id, stored)
    added = f"added the {kind} key {key_id}"
    announce({"message_type": "key_added", "id": key_id, "kind": kind}, [added], added)


def _new_password(file: Path | None) -> Secret:
    if file is not None:
        try:
            return open_password(file, None)
        except SecretUnavailable as error:
            raise UsageError(error.message, hint="Give another --new-password-file.") from error
    if sys.stdin.isatty():
        return Secret(str(typer.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)))
    raise UsageError("give --new-password-file or --recovery-key-file.")


@keys.command("remove")
def key_remove(
    repo: RepositoryArgument,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id, or a unique prefix of it.")],
    accept_rollback: AcceptRollback = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    as_json: AsJson = False,
) -> None:
    """Remove a key other than the one you open with.

    It does not lock out whoever copied the repository before.
    Exit codes: 0 removed; 1 no such key, or it is the one in use; 10 no repository; 12 wrong password;
    14 rolled back or replaced.
    """
    from vmkeep.repository.errors import KeyInUse, NoSuchKey
    from vmkeep.repository.keys import PREFIX, key_infos

    with open_repository(repo, password_file, password_command) as repository:
        repository.listing(accept_rollback=accept_rollback)
        found = [info.id for info in key_infos(repository.store)[0] if info.id.startswith(key)]
        if len(found) != 1 or not key:
            many = f"{len(found)} keys have" if found else "no key has"
            raise NoSuchKey(f"{many} an id that begins with {key!r}.")
        if found[0] == repository.key_id:
            raise KeyInUse("this is the key you opened the repository with.")
        repository.store.delete(PREFIX + found[0])
    removed = f"removed the key {found[0]}"
    announce({"message_type": "key_removed", "id": found[0]}, [removed], removed)
