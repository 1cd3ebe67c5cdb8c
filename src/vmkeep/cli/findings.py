"""Tell what an examination of a repository found: which restore points are whole, and what is wrong."""

from typing import Any, Final

from vmkeep.cli.text import rounded
from vmkeep.repository.examine.report import Loss, PointState, Report, State

_POINTS_NAMED: Final = 5
_RANGES_NAMED: Final = 3


def report_fields(report: Report) -> dict[str, Any]:
    """Return the report as a document for programs."""
    return {
        "message_type": "summary",
        "ok": report.ok,
        "points": report.readable_points,
        "points_whole": report.count(State.WHOLE),
        "points_damaged": report.count(State.DAMAGED),
        "points_not_examined": report.count(State.NOT_EXAMINED),
        "restore_points": [_point_fields(point) for point in report.points],
        "packs": report.packs,
        "bytes_read": report.bytes_read,
        "problems": [vars(problem) for problem in report.problems],
    }


def _point_fields(point: PointState) -> dict[str, Any]:
    return vars(point) | {"state": point.state.value, "losses": [vars(loss) for loss in point.losses]}


def report_lines(report: Report, *, keyless: bool = False) -> list[str]:
    """Return the report as lines for people."""
    lines = []
    by_id = {point.id: point for point in report.points}
    for problem in report.problems:
        lines.append(f"{'note' if problem.harmless else 'PROBLEM'}  {problem.message}")
        needed_by = [_called(by_id[point_id]) for point_id in problem.points]
        if needed_by:
            more = len(needed_by) - _POINTS_NAMED
            left_off = f" and {more} more" if more > 0 else ""
            lines.append(f"         needed by {'; '.join(needed_by[:_POINTS_NAMED])}{left_off}")
    if not report.ok:
        # Whoever sees damage asks first what can still be restored.
        lines += [line for point in report.points for line in _point_lines(point)]
    covered = f"{report.packs} packs"
    if not keyless:
        covered = f"{report.readable_points} restore points in {covered}"
    read = f"{rounded(report.bytes_read)} of data read"
    lines.append(f"{'no errors' if report.ok else 'ERRORS'}: {covered}, {read}")
    if report.points:
        counts = [f"{report.count(state)} {state.value}" for state in State if report.count(state)]
        lines.append(f"restore points: {', '.join(counts)}")
    return lines


def _called(point: PointState) -> str:
    return f"{point.vm or 'a VM'} {(point.time or '')[:19]} ({point.id[:12]})"


def _point_lines(point: PointState) -> list[str]:
    first = f"{point.state.value:13} {_called(point)}"
    return [first, *(f"{'':13} {_loss_text(loss)}" for loss in point.losses)]


def _loss_text(loss: Loss) -> str:
    ranges = [f"{offset}+{length}" for offset, length in loss.ranges[:_RANGES_NAMED]]
    more = len(loss.ranges) - len(ranges) + loss.ranges_left_off
    left_off = f" and {more} more" if more else ""
    return f"{loss.name!r} lacks {loss.bytes} bytes, at {', '.join(ranges)}{left_off}"
