"""Traces are read within bounds, and what is none is refused by its line (docs/trace.md)."""

import json
from pathlib import Path

import pytest

from vmkeep_lab.replay import Exchange, TraceError, read_trace
from vmkeep_lab.replay import trace as trace_module

pytestmark = pytest.mark.quick

HEAD = {"vmkeep_trace": 1}


def line(number: object = 1, **changed: object) -> dict[str, object]:
    return {"n": number, "at_ms": 5, "action": "a", "resource": "r", "request": "<q/>", "status": 200,
            "reply": "<p/>", **changed}  # fmt: skip


def written(folder: Path, *lines: object) -> Path:
    file = folder / "trace.jsonl"
    file.write_text(
        "".join(each if isinstance(each, str) else json.dumps(each) + "\n" for each in lines), "utf-8"
    )
    return file


def test_exchanges_come_in_their_order(tmp_path: Path) -> None:
    file = written(tmp_path, {**HEAD, "later": []}, line(), line(2, status=500, request="<ü/>", new=1))
    assert read_trace(file) == [Exchange(1, "<q/>", 200, "<p/>"), Exchange(2, "<ü/>", 500, "<p/>")]


def test_a_trace_that_ends_early_and_says_so_is_read_to_there(tmp_path: Path) -> None:
    file = written(tmp_path, HEAD, line(), {"incomplete": "no space left on device"})
    assert [each.number for each in read_trace(file)] == [1]


@pytest.mark.parametrize("reply", ["", "(13 bytes that are not XML)"])
def test_what_is_no_xml_is_no_body(tmp_path: Path, reply: str) -> None:
    assert read_trace(written(tmp_path, HEAD, line(reply=reply)))[0].reply == ""


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "no exchange"),
        ([HEAD], "no exchange"),
        ([line()], "version 1"),
        ([{"vmkeep_trace": 2}, line()], "version 1"),
        ([{"vmkeep_trace": True}, line()], "version 1"),
        ([[HEAD]], "line 1 is no object"),
        ([HEAD, "null\n"], "line 2 is no object"),
        ([HEAD, '{"n": 1, "request": "<q'], "line 2 is not JSON"),
        ([HEAD, "[" * 100_000 + "\n"], "line 2 is not JSON"),
        ([HEAD, "\n"], "line 2 is not JSON"),
        ([HEAD, line(2)], "a part of the trace is missing"),
        ([HEAD, line(), line()], "a part of the trace is missing"),
        ([HEAD, line("1")], "a part of the trace is missing"),
        ([HEAD, line(True)], "a part of the trace is missing"),
        ([HEAD, line(request=None)], "no request"),
        ([HEAD, line(reply=7)], "no reply"),
        ([HEAD, line(status="200")], "no HTTP status"),
        ([HEAD, line(status=20)], "no HTTP status"),
        ([HEAD, line(status=2000)], "no HTTP status"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, lines: list[object], told: str) -> None:
    with pytest.raises(TraceError, match=told):
        read_trace(written(tmp_path, *lines))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_bytes(b'{"vmkeep_trace": 1, "x": "\xff"}\n')
    with pytest.raises(TraceError, match="line 1 is not JSON"):
        read_trace(file)


@pytest.mark.parametrize("bound", ["MAX_LINE", "MAX_TRACE"])
def test_a_trace_without_end_is_not_read_to_its_end(
    tmp_path: Path, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, HEAD, line(reply="<" + "x" * 2000))
    monkeypatch.setattr(trace_module, bound, 2000)
    with pytest.raises(TraceError, match="line 2 is beyond"):
        read_trace(file)
