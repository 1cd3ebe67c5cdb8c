"""The lab's command line: ``serve`` a simulated host, ``replay`` a recorded one, ``judge`` restored disks."""

import argparse
import json
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

from vmkeep_lab.host.control import ControlServer, Request
from vmkeep_lab.host.provider import Host
from vmkeep_lab.judge import TruthError, judge, read_truth
from vmkeep_lab.replay import Replay, TraceError, read_trace
from vmkeep_lab.scenario import OtherScenario, ScenarioError, load, raise_host, scenario_names
from vmkeep_lab.wire.certificate import make_certificate
from vmkeep_lab.wire.disturbances import Disturbance, Effect
from vmkeep_lab.wire.server import Listeners, Server

USER: Final = "Administrator"
_REFUSED: Final = 2
_DIFFERENT: Final = 1
_PROTECTED: Final = "C:\\VMs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a disk differs, 2 refused."""
    given = _parser().parse_args(arguments)
    run: Mapping[str, Any] = {"serve": _serve, "replay": _replay, "judge": _judge, "scenarios": _scenarios}
    try:
        return int(run[given.command](given))
    except (ScenarioError, OtherScenario, TraceError, TruthError, OSError) as error:
        print(f"vmkeep_lab: {error}", file=sys.stderr)
        return _REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vmkeep_lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="simulate a host until standard input closes, or SIGTERM")
    serve.add_argument("--scenario", default="demo", help="a scenario's name, or a .toml file")
    serve.add_argument("--state", type=Path, required=True, help="the folder that holds the host")
    serve.add_argument("--port", type=int, default=0, help="default: any free one")
    serve.add_argument("--https", action="store_true", help="speak HTTPS with a certificate of its own")
    serve.add_argument("--keytab", type=Path, help="the keys of its services: the host is in a domain")
    again = commands.add_parser("replay", help="answer from a trace until standard input closes, or SIGTERM")
    again.add_argument("trace", type=Path, help="what vmkeep wrote with --record")
    again.add_argument("--state", type=Path, help="the folder for the password; default: a temporary one")
    again.add_argument("--port", type=int, default=0, help="default: any free one")
    compare = commands.add_parser("judge", help="compare restored disks with the truth")
    compare.add_argument("--truth", type=Path, required=True, help="truth.jsonl of a state folder")
    compare.add_argument("restored", type=Path, nargs="+", help="raw or VHDX files")
    commands.add_parser("scenarios", help="list the scenarios that come with the lab")
    return parser


# --- serve ------------------------------------------------------------------------------------


def _serve(given: argparse.Namespace) -> int:
    """Raise the host, listen, say where in one line of JSON, and wait for the end."""
    over = _end_of_service()
    scenario = load(given.scenario)
    folder = given.state.absolute()
    host = raise_host(scenario, folder)
    password_file = folder / "password"
    password = _password(password_file)
    certificate = make_certificate(folder, scenario.host.name) if given.https else None
    server = Server(
        host,
        {USER: password},
        host_name=scenario.host.name,
        http_port=None if given.https else given.port,
        https_port=given.port if given.https else None,
        certificate=certificate,
        keytab=given.keytab,
    )
    control = ControlServer(host, folder, _verbs_of(server))
    control.start()
    host.start()
    with server:
        facts = _facts(given, host, server, password_file, certificate)
        _stand({**facts, "control": control.address}, over)
    control.shutdown()
    control.server_close()
    host.stop()
    return 0


def _end_of_service() -> Event:
    """Return what SIGTERM and Ctrl+C set."""
    over = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    return over


def _stand(facts: Mapping[str, Any], over: Event) -> None:
    """Say where the host is, and wait for the end of the input or of the service."""
    print(json.dumps(facts), flush=True)
    Thread(target=_wait_for_end_of_input, args=(over,), daemon=True).start()
    over.wait()


def _wait_for_end_of_input(over: Event) -> None:
    while os.read(0, 4096):
        pass
    over.set()


def _password(file: Path) -> str:
    """Return the host's password, made now if there is none; it lies in a file of its owner only."""
    try:
        return file.read_text("utf-8").strip()
    except FileNotFoundError:
        password = secrets.token_urlsafe(18)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(f"{password}\n")
        return password


def _facts(
    given: argparse.Namespace,
    host: Host,
    server: Server,
    password_file: Path,
    certificate: tuple[Path, Path] | None,
) -> dict[str, Any]:
    """Return where the host is, and the block that goes into vmkeep's configuration."""
    transport, port = ("https", server.https_port) if given.https else ("http", server.http_port)
    place = host.world.places.real(_PROTECTED)
    place.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {
        "name": host.world.state.name,
        "address": "127.0.0.1",
        "port": port,
        "transport": transport,
        "auth": "ntlm",
        "user": USER,
        "password_file": str(password_file),
        "paths": {_PROTECTED: place.as_uri()},
    }
    if certificate:
        facts["ca_file"] = str(certificate[0])
    block = _block({key: each for key, each in facts.items() if key != "name"})
    return {**facts, "truth": str(host.world.folder / "truth.jsonl"), "config": block}


def _block(facts: Mapping[str, Any]) -> str:
    """Return facts as a table of TOML; JSON's texts and numbers are TOML's, too."""
    lines = ["[hosts.lab]"]
    for key, value in facts.items():
        if isinstance(value, dict):
            pairs = ", ".join(f"{json.dumps(name)} = {json.dumps(each)}" for name, each in value.items())
            lines.append(f"{key} = {{{pairs}}}")
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def _verbs_of(server: Server) -> dict[str, Any]:
    """Return what tests can ask of the wire: disturb requests, close connections."""

    def disturb(request: Request) -> dict[str, Any]:
        given = {key: each for key, each in request.items() if key != "do"}
        server.disturbances.add(Disturbance(**{**given, "effect": Effect(given["effect"])}))
        return {}

    def calm(_: Request) -> dict[str, Any]:
        return {"matched": server.disturbances.clear()}

    def close(_: Request) -> dict[str, Any]:
        server.close_connections()
        return {}

    return {"disturb": disturb, "calm": calm, "close-connections": close}


# --- replay -----------------------------------------------------------------------------------


def _replay(given: argparse.Namespace) -> int:
    """Listen like ``serve``, with the answers of a trace; a trace holds no files, so there are no paths."""
    over = _end_of_service()
    replay = Replay(read_trace(given.trace))
    with _folder(given.state) as folder:
        password_file = folder / "password"
        users = {USER: _password(password_file)}
        with Listeners(replay, users, host_name="REPLAY", http_port=given.port, https_port=None) as ports:
            facts = {
                "name": "REPLAY",
                "address": "127.0.0.1",
                "port": ports.http_port,
                "transport": "http",
                "auth": "ntlm",
                "user": USER,
                "password_file": str(password_file),
            }
            block = _block({key: each for key, each in facts.items() if key != "name"})
            _stand({**facts, "config": block}, over)
    return 0


@contextmanager
def _folder(state: Path | None) -> Iterator[Path]:
    """Yield the folder that was asked for, made if need be, or one that goes away."""
    if state is None:
        with tempfile.TemporaryDirectory(prefix="vmkeep_lab-") as folder:
            yield Path(folder)
    else:
        state.mkdir(parents=True, exist_ok=True)
        yield state.absolute()


# --- judge and scenarios ------------------------------------------------------------------------


def _judge(given: argparse.Namespace) -> int:
    """Print the verdict on each file as JSON; 0 only if every one equals a line of the truth."""
    verdicts = judge(read_truth(given.truth), given.restored)
    are_identical = all(each.is_identical for each in verdicts)
    print(json.dumps({"restored": [asdict(each) for each in verdicts], "identical": are_identical}))
    return 0 if are_identical else _DIFFERENT


def _scenarios(_: argparse.Namespace) -> int:
    for name in scenario_names():
        print(f"{name}: {load(name).title}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
