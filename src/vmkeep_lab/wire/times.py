"""Times and intervals as text: WS-Management's (ISO 8601) and CIM's (DSP0004)."""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

_ISO: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?")
_DURATION: Final = re.compile(
    r"P(?:(\d{1,9})Y)?(?:(\d{1,9})M)?(?:(\d{1,9})D)?(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})(?:\.(\d{1,9}))?S)?)?"
)
_CIM: Final = re.compile(r"(\d{14})\.(\d{6})([+-])(\d{3})")
_CIM_INTERVAL: Final = re.compile(r"(\d{8})(\d\d)(\d\d)(\d\d)\.(\d{6}):000")


def iso_time(moment: datetime) -> str:
    """Return a time as recorded hosts write it: UTC, the fraction without its last zeros."""
    moment = moment.astimezone(UTC)
    fraction = f".{moment.microsecond:06}".rstrip("0") if moment.microsecond else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z" if moment.year > 999 else f"{moment.isoformat()[:19]}Z"


def iso_interval(span: timedelta) -> str:
    """Return an interval as an ISO duration with all its parts."""
    minutes, seconds = divmod(span.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{span.microseconds:06}".rstrip("0") if span.microseconds else ""
    return f"P{span.days}DT{hours}H{minutes}M{seconds}{fraction}S"


def read_duration(text: str) -> timedelta:
    """Read an xs:duration; ValueError where it is none or does not fit."""
    found = _DURATION.fullmatch(text.strip())
    if not found or not any(found.groups()):
        raise ValueError(f"not a duration: {text[:40]!r}")
    years, months, days, hours, minutes, seconds = (int(part or 0) for part in found.groups()[:6])
    micro = int((found[7] or "").ljust(6, "0")[:6])
    try:
        return timedelta(
            days=years * 365 + months * 30 + days,
            hours=hours,
            minutes=minutes,
            seconds=seconds,
            microseconds=micro,
        )
    except OverflowError as error:
        raise ValueError("the duration does not fit") from error


def read_iso(text: str) -> datetime | timedelta:
    """Read an xs:dateTime or xs:duration; ValueError where it is neither."""
    text = text.strip()
    if text.startswith("P"):
        return read_duration(text)
    found = _ISO.fullmatch(text)
    if not found:
        raise ValueError(f"not a time: {text[:40]!r}")
    micro = int((found[7] or "").ljust(6, "0")[:6])
    zone = UTC
    if found[8] and found[8] != "Z":
        sign = -1 if found[8][0] == "-" else 1
        zone = timezone(sign * timedelta(hours=int(found[8][1:3]), minutes=int(found[8][4:])))
    year, month, day, hour, minute, second = (int(found[part]) for part in range(1, 7))
    return datetime(year, month, day, hour, minute, second, micro, zone)


def cim_time(value: datetime | timedelta) -> str:
    """Return a time or an interval in CIM's 25 characters, which CIM-XML and WQL use."""
    if isinstance(value, timedelta):
        minutes, seconds = divmod(value.seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{value.days:08}{hours:02}{minutes:02}{seconds:02}.{value.microseconds:06}:000"
    moment = value.astimezone(UTC)
    return f"{moment.year:04}{moment:%m%d%H%M%S}.{moment.microsecond:06}+000"


def read_cim(text: str) -> datetime | timedelta:
    """Read CIM's 25 characters; ValueError where they are none."""
    text = text.strip()
    if found := _CIM_INTERVAL.fullmatch(text):
        days, hours, minutes, seconds, micro = (int(part) for part in found.groups())
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, microseconds=micro)
    found = _CIM.fullmatch(text)
    if not found:
        raise ValueError(f"not a CIM time: {text[:40]!r}")
    offset = timedelta(minutes=int(found[4]) * (-1 if found[3] == "-" else 1))
    plain = datetime.strptime(found[1], "%Y%m%d%H%M%S").replace(
        microsecond=int(found[2]), tzinfo=timezone(offset)
    )
    return plain.astimezone(UTC)
