"""Read and write the two spellings of moments and intervals: WS-CIM's (ISO 8601) and CIM's own."""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from vmkeep.host.wsman.errors import ArgumentRefused, ValueRefused

# "Never": the first moment of Windows' calendar, as Hyper-V sends it (contract/recordings).
NEVER: Final = datetime(1601, 1, 1, tzinfo=UTC)

_ISO: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,12}))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII
)
_CIM: Final = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)\.(\d{6})([+-])(\d{3})", re.ASCII)
_DURATION: Final = re.compile(
    r"(-?)P(?:0+Y)?(?:0+M)?(?:(\d{1,9})D)?(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})(?:\.(\d{1,12}))?S)?)?",
    re.ASCII,
)
_CIM_INTERVAL: Final = re.compile(r"(\d{8})(\d\d)(\d\d)(\d\d)\.(\d{6}):000", re.ASCII)


def read_moment(text: str) -> datetime:
    """Return the moment in UTC; digits below a microsecond are dropped. Raises ValueRefused."""
    try:
        iso = _ISO.fullmatch(text)
        if iso:
            *parts, fraction, sign, hours, minutes = iso.groups()
            offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
        else:
            cim = _CIM.fullmatch(text)
            if cim is None:
                raise ValueRefused(f"{text!r} is not a moment with its time zone.")
            *parts, fraction, sign, minutes = cim.groups()
            offset = timedelta(minutes=int(minutes))
        zone = timezone(-offset if sign == "-" else offset)
        year, month, day, hour, minute, second = map(int, parts)
        return datetime(year, month, day, hour, minute, second, _micro(fraction), zone).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueRefused(f"{text!r} is not a moment of any calendar.") from error


def read_interval(text: str) -> timedelta:
    """Return the length of time; months and years, which have none, are refused. Raises ValueRefused."""
    iso, cim = _DURATION.fullmatch(text), _CIM_INTERVAL.fullmatch(text)
    if cim:
        sign, *parts, fraction = "", *cim.groups()
    elif iso and text[-1] not in "PT":
        sign, *parts, fraction = iso.groups()
    else:
        raise ValueRefused(f"{text!r} is not a length of time.")
    days, hours, minutes, seconds = (int(part or 0) for part in parts)
    try:
        length = timedelta(
            days=days, hours=hours, minutes=minutes, seconds=seconds, microseconds=_micro(fraction)
        )
    except OverflowError as error:
        raise ValueRefused(f"{text!r} is longer than can be counted.") from error
    return -length if sign else length


def _micro(fraction: str | None) -> int:
    return int((fraction or "0")[:6].ljust(6, "0"))


def iso_moment(moment: datetime) -> str:
    """Spell a moment as WS-CIM does. Raises ArgumentRefused for one without a time zone."""
    return _in_utc(moment).strftime("%Y-%m-%dT%H:%M:%S.%fZ").zfill(27)


def cim_moment(moment: datetime) -> str:
    """Spell a moment as CIM-XML does. Raises ArgumentRefused for one without a time zone."""
    return _in_utc(moment).strftime("%Y%m%d%H%M%S.%f+000").zfill(25)


def iso_interval(length: timedelta) -> str:
    """Spell a length of time as WS-CIM does. Raises ArgumentRefused for a negative one."""
    days, hours, minutes, seconds, micro = _parts(length)
    return f"P{days}DT{hours}H{minutes}M{seconds}.{micro:06d}S"


def cim_interval(length: timedelta) -> str:
    """Spell a length of time as CIM-XML does. Raises ArgumentRefused for a negative or endless one."""
    days, hours, minutes, seconds, micro = _parts(length)
    if days > 99_999_999:
        raise ArgumentRefused(f"{length} has more days than CIM can write.")
    return f"{days:08d}{hours:02d}{minutes:02d}{seconds:02d}.{micro:06d}:000"


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ArgumentRefused(f"{moment} has no time zone.")
    return moment.astimezone(UTC)


def _parts(length: timedelta) -> tuple[int, int, int, int, int]:
    if length < timedelta(0):
        raise ArgumentRefused(f"{length} is negative, which CIM cannot write.")
    minutes, seconds = divmod(length.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return length.days, hours, minutes, seconds, length.microseconds
