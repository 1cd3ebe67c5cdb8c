"""What all commands share: options, errors, exit codes, JSON, signals, progress."""

import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Final

import typer

from vmkeep import stopping
from vmkeep.cli.progress import StepsTold, TerminalProgress
from vmkeep.cli.text import visible
from vmkeep.clock import SystemClock
from vmkeep.errors import ExitCode, UsageError, VmkeepError, notes_of
from vmkeep.objectstore.address import open_store
from vmkeep.objectstore.store import Store
from vmkeep.progress import Progress, Silent
from vmkeep.repository.repository import Repository
from vmkeep.secrets import Secret, SecretUnavailable, read_password

PASSWORD_VARIABLE: Final = "VMKEEP_PASSWORD"
REPOSITORY_VARIABLE: Final = "VMKEEP_REPO"
STATE_VARIABLE: Final = "VMKEEP_STATE_DIR"
CACHE_VARIABLE: Final = "VMKEEP_CACHE_DIR"
_REPOSITORY_OPTIONS: Final = ("--repo", "-r")
_PERCENTAGE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)%?")
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd]?)")
_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNNOTICED: Final = "a repository that was rolled back or replaced would go unnoticed"


@dataclass
class _Settings:
    """The options every command takes; set while the command line is parsed."""

    quiet: bool = False
    verbose: bool = False
    no_color: bool = False
    debug: bool = False
    json: bool = False


# The bad input typer finds; it has no public name of its own.
_ParseError: Final = typer.BadParameter.__mro__[2]
settings = _Settings()

# Taken anywhere on the command line, by every command.
_EVERYWHERE: Final = {
    "-q": "quiet",
    "--quiet": "quiet",
    "-v": "verbose",
    "--verbose": "verbose",
    "--no-color": "no_color",
    "--debug": "debug",
}
EPILOG: Final = (
    "Every command also takes -q (no progress, and of work that was done nothing but what went wrong), -v "
    "(each step with its duration, more words), --no-color, --debug (the traceback of an error, and what "
    "vmkeep notes while it works). The repository's password comes from --password-file, "
    "--password-command or the variable VMKEEP_PASSWORD, or is asked for at a terminal. The variable "
    "VMKEEP_STATE_DIR names the folder where this machine remembers which restore points it has seen, and "
    "which repository lies where; VMKEEP_CACHE_DIR the one for what only saves time, and may be deleted."
)


def _take_settings(arguments: Sequence[str]) -> list[str]:
    """Set the settings that every command takes and return the other arguments."""
    vars(settings).update(vars(_Settings()))
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for argument in arguments[:end]:
        if argument in _EVERYWHERE:
            setattr(settings, _EVERYWHERE[argument], True)
    settings.json = "--json" in arguments[:end]
    return [a for i, a in enumerate(arguments) if i >= end or a not in _EVERYWHERE]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RepositoryOption = Annotated[
    str,
    typer.Option("--repo", "-r", envvar=REPOSITORY_VARIABLE, metavar="REPO", help="Where the repository is."),
]
RepositoryArgument = Annotated[
    str,
    typer.Argument(
        envvar=REPOSITORY_VARIABLE, metavar="REPO", help="Where the repository is: a path or file:// address."
    ),
]
PointArgument = Annotated[
    str,
    typer.Argument(
        metavar="POINT",
        help="An id or its beginning; VM or VM@latest: its newest; VM@TIME: in UTC, may be cut short; "
        "latest: of all VMs.",
    ),
]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", metavar="FILE", help="Read the password from a file.")
]
PasswordCommand = Annotated[
    str | None,
    typer.Option(
        "--password-command", metavar="COMMAND", help="Run a program (no shell) that prints the password."
    ),
]
AcceptRollback = Annotated[
    bool,
    typer.Option(
        "--accept-rollback",
        help="Accept a repository that is older than what this machine has seen, or another one in its "
        "place, from now on.",
    ),
]


@contextmanager
def until_stopped() -> Iterator[None]:
    """Take a signal for the wanted end of what is inside, and go on after it."""
    try:
        yield
    except stopping.Stopped:
        return  # a second signal is ignored from here on


@contextmanager
def summed_up(tell: Callable[[ExitCode], None]) -> Iterator[None]:
    """Call ``tell`` with the exit code to come when a signal ends what is inside; it ends all the same."""
    try:
        yield
    except stopping.Stopped as stopped:
        tell(_code_of(stopped))
        raise


def _code_of(stopped: stopping.Stopped) -> ExitCode:
    return ExitCode.INTERRUPTED if stopped.number == signal.SIGINT else ExitCode.TERMINATED


def run_app(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run the application and turn whatever happens into an exit code and one clear sentence."""
    rest = _take_settings(arguments)
    _stand_in_for_closed_streams()
    _allow_many_files()
    _take_any_text()
    previous = {number: signal.signal(number, stopping.stop) for number in stopping.SIGNALS}
    try:
        result = typer.main.get_command(app).main(rest, prog_name="vmkeep", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return int(result) if isinstance(result, int) else ExitCode.OK
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:  # a question at the terminal was left without an answer
        return _interrupted(ExitCode.INTERRUPTED)
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command: its help is the answer
            print(error, file=sys.stderr)
            return int(ExitCode.USAGE)
        text = error.format_message() if isinstance(error, _ParseError) else str(error)
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "vmkeep"
        return _fail(_usage_error(error, text, command))
    except VmkeepError as error:
        return _fail(error)
    except stopping.Stopped as stopped:
        return _interrupted(_code_of(stopped), stopped)
    except BrokenPipeError:
        return int(ExitCode.FAILED)  # whoever read our output has gone; there is nobody left to tell
    except OSError as error:
        place = f" {error.filename!r}" if error.filename else ""
        sentence = f"the operating system refused{place}: {(error.strerror or str(error)).lower()}."
        return _fail(VmkeepError(sentence, hint="Mend that, then repeat the command."))
    except Exception as error:  # noqa: BLE001 - the outermost border: a bug must still end in a sentence and a code
        hint = "This is a defect of vmkeep: repeat with --debug and report what it prints."
        return _fail(VmkeepError(f"unexpected: {type(error).__name__}: {error}", hint=hint))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _give_up_unwritable_output()


def _usage_error(error: typer.TyperException, text: str, command: str) -> UsageError:
    """Return what typer found wrong with the command line, and what to type instead."""
    text = text.replace("Value error, ", "")  # what checks values names itself first
    text = re.sub(r"\?\.$", "?", text.rstrip(".") + ".")
    hint = f"See `{command} --help`."
    option = getattr(error, "option_name", None)
    if option in _REPOSITORY_OPTIONS and command.startswith("vmkeep repo "):
        text = f"No such option: {option}."  # what is near it is no help
        hint = f"The repository comes without an option here: `{command} REPO`, or in {REPOSITORY_VARIABLE}."
    return UsageError(text, hint=hint)


def _allow_many_files() -> None:
    """Use the hard limit of open files: 20 disks with 50 checkpoints each are more than the usual 1024."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _stand_in_for_closed_streams() -> None:
    """Keep files we open from becoming a standard stream that was closed before we were started."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)
    if sys.stderr is None:  # what is printed to nowhere would go to standard output
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process


def _take_any_text() -> None:
    """Let output take names its encoding cannot hold: they are written as codes, as :func:`visible` does."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _give_up_unwritable_output() -> None:
    """Let go of what standard output did not take: the interpreter would try once more, and end with 120."""
    try:
        if sys.stdout is not None:  # closed before we were started
            sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _interrupted(code: ExitCode, error: BaseException | None = None) -> int:
    hint = (
        "Start the command again when it suits: what is complete is kept. Whether a restore point was, "
        "`vmkeep points` tells."
    )
    left = notes_of(error) if error is not None else ()
    text = (
        f"interrupted; {'' if left else 'nothing of it stays open or held, and '}nothing half-written counts."
    )
    _report(code, "VK130", text, hint)
    if error is not None:
        _tell_what_was_left(error)
    return int(code)


def _fail(error: VmkeepError) -> int:
    if settings.debug:
        traceback.print_exc()
    _report(error.exit_code, error.code, error.message, error.hint)
    _tell_what_was_left(error)
    return int(error.exit_code)


def _tell_what_was_left(error: BaseException) -> None:
    """Say what a run made elsewhere and could not take away again; whoever collected it put it into notes."""
    for note in notes_of(error):
        warn(note)


def _report(code: ExitCode, name: str, message: str, hint: str) -> None:
    if settings.json:
        fields = {
            "message_type": "exit_error",
            "code": int(code),
            "error": name,
            "message": message,
            "hint": hint,
        }
        print(json.dumps(fields), file=sys.stderr)
        return
    print(f"vmkeep: {visible(message)}", file=sys.stderr)
    if hint:
        print(f"        {visible(hint)}", file=sys.stderr)


def say(line: str = "") -> None:
    """Print a line for people; not with --json or --quiet."""
    if not settings.json and not settings.quiet:
        print(visible(line))


def answer(document: object, lines: Sequence[str]) -> None:
    """Print the result: the document with --json, else the lines."""
    if settings.json:
        print(json.dumps(document))
    else:
        for line in lines:
            print(visible(line))


def try_answer(document: object, lines: Sequence[str]) -> str | None:
    """Print a result that stands whether or not it can be printed; return why it could not be."""
    try:
        answer(document, lines)
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _give_up_unwritable_output()
        return (error.strerror or str(error)).lower()
    return None


def announce(document: object, lines: Sequence[str], done: str) -> None:
    """Print the result of work that is ``done``; where that fails, say so and end with 3."""
    unprinted = try_answer(document, lines)
    if unprinted is not None:
        # Nobody shall do it again because of this.
        warn(f"{done}, but the result cannot be printed: {unprinted}.")
        raise typer.Exit(ExitCode.PARTIAL)


def warn(line: str) -> None:
    """Print a warning on standard error, in JSON where JSON was asked for."""
    if settings.json:
        print(json.dumps({"message_type": "warning", "message": line}), file=sys.stderr)
    else:
        print(f"vmkeep: warning: {visible(line)}", file=sys.stderr)


def remark(kind: str, about: str, line: str) -> None:
    """Say on standard error what goes on, for whoever wonders; not with --quiet."""
    if settings.json:
        print(json.dumps({"message_type": kind, "about": about, "message": line}), file=sys.stderr)
    elif not settings.quiet:
        print(f"vmkeep: {visible(about)}: {visible(line)}", file=sys.stderr, flush=True)


def tell_failure(what: str, error: VmkeepError, *, with_notes: bool = True) -> None:
    """Say on standard error that a part of the work failed, and what to do; the rest goes on.

    ``with_notes`` false: what was left behind has been told with another part, whose error this is.
    """
    if settings.json:
        fields = {
            "message_type": "error",
            "about": what,
            "code": int(error.exit_code),
            "error": error.code,
            "message": error.message,
            "hint": error.hint,
        }
        print(json.dumps(fields), file=sys.stderr)
    else:
        print(f"vmkeep: {visible(what)}: {visible(error.message)}", file=sys.stderr)
        if error.hint:
            print(f"        {visible(error.hint)}", file=sys.stderr)
    if with_notes:
        _tell_what_was_left(error)


def progress() -> Progress:
    """Return a progress bar on standard error, if somebody looks at it; --verbose also tells each step."""
    if settings.quiet or settings.json:
        return Silent()
    clock = SystemClock()
    shown: Progress = Silent()
    if sys.stderr.isatty():
        color = not settings.no_color and "NO_COLOR" not in os.environ
        shown = TerminalProgress(sys.stderr, clock, color=color)
    return StepsTold(shown, _tell_step, clock) if settings.verbose else shown


def _tell_step(line: str) -> None:
    print(visible(line), file=sys.stderr, flush=True)


def open_password(file: Path | None, command: str | None, *, new: bool = False) -> Secret:
    """Return the repository's password from where the user keeps it; asks on a terminal."""
    found = read_password(file=file, command=command, environment=os.environ, variable=PASSWORD_VARIABLE)
    if found is not None:
        return found
    if not sys.stdin.isatty():
        raise SecretUnavailable("the repository's password is needed.")
    text = str(typer.prompt("Repository password", hide_input=True, confirmation_prompt=new, err=True))
    return Secret(text)


def open_repository(
    address: str, password_file: Path | None, password_command: str | None, *, meanwhile: str | None = None
) -> AbstractContextManager[Repository]:
    """Open the repository the user means, as :func:`open_with` does."""
    store = open_store_of(address)
    return open_with(store, open_password(password_file, password_command), meanwhile=meanwhile)


@contextmanager
def open_with(store: Store, password: Secret, *, meanwhile: str | None = None) -> Iterator[Repository]:
    """Open a repository, and say at the end what is wrong with this machine's memory of it.

    Deriving the key keeps one processor busy for a while, on purpose; the module
    ``meanwhile``, which the command needs next, is imported beside it. Raises
    whatever opening raises.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="vmkeep-open") as pool:
        opening = pool.submit(Repository.open, store, password, SystemClock(), state_folder(), cache_folder())
        if meanwhile is not None:
            import_module(meanwhile)
    with opening.result() as repository:
        try:
            yield repository
        finally:
            for warning in repository.warnings:
                warn(warning)


def open_store_of(address: str) -> Store:
    """Open the store of a repository that should exist."""
    if not address:
        raise UsageError("no repository was named.", hint=f"Use --repo or set {REPOSITORY_VARIABLE}.")
    from vmkeep.objectstore.errors import StoreMissing
    from vmkeep.repository.errors import NotARepository

    try:
        return open_store(address)
    except StoreMissing as error:
        raise NotARepository(f"there is no repository at {address}.") from error


def share_of(text: str | None, option: str) -> float:
    """Read ``N%``, ``N`` (the same) or ``all`` as a share from 0 to 1; 0 when the option was not given."""
    if text is None:
        return 0.0
    if text == "all":
        return 1.0
    number = _PERCENTAGE.fullmatch(text)
    if number is None or float(number[1]) > 100:
        raise UsageError(f"{option} takes a percentage such as 5%, or all; not {text!r}.")
    return float(number[1]) / 100


def seconds_of(text: str, option: str) -> float:
    """Read a length of time: a number with s, m, h or d, seconds without; more than none."""
    found = _DURATION.fullmatch(text)
    seconds = float(found[1]) * _UNITS_S[found[2] or "s"] if found is not None else 0.0
    if seconds <= 0:
        raise UsageError(f"{option} takes a length of time such as 90m, 12h or 2d; not {text!r}.")
    return seconds


def state_folder() -> Path | None:
    """Return where this machine remembers what it has seen; None when there is no such place."""
    folder = state_folder_named()
    if folder is None:
        # So it is in a service without a home.
        warn(f"no place to remember what this machine has seen: {_UNNOTICED}; set {STATE_VARIABLE}.")
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    except OSError:
        usable = False
    if usable:
        return folder
    # Bringing data back must not depend on being able to take a note.
    warn(f"cannot read and write in {str(folder)!r}: {_UNNOTICED}; set {STATE_VARIABLE}.")
    return None


def state_folder_named() -> Path | None:
    """Return where the state folder is or would be; nothing is looked at or made."""
    return _folder_named(STATE_VARIABLE, "XDG_STATE_HOME", ".local/state/vmkeep", "vmkeep")


def cache_folder() -> Path | None:
    """Return where this machine keeps what only saves time; made by whoever writes there."""
    return _folder_named(CACHE_VARIABLE, "XDG_CACHE_HOME", ".cache/vmkeep", "vmkeep/cache")


def _folder_named(variable: str, base_variable: str, below_home: str, on_windows: str) -> Path | None:
    if os.environ.get(variable):
        return Path(os.environ[variable])
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base) / on_windows if base else None
    base = os.environ.get(base_variable)
    if base:
        return Path(base) / "vmkeep"
    home = os.environ.get("HOME")
    return Path(home) / below_home if home else None
