"""Amounts of memory and time with units, as users write them."""

import math
import re

__all__ = ["clock", "counted", "parse_memory", "parse_seconds", "slurm_bytes", "slurm_seconds"]

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_WITH_UNIT = re.compile(rf"\s*{_NUMBER}\s*([a-z]+)\s*", re.IGNORECASE)
_PREFIXES = "kmgtp"
_BYTES = {
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate(_PREFIXES, 1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate(_PREFIXES, 1)},
}
_CLOCK = re.compile(r"\s*(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d(?:\.\d*)?)\s*")
_SLURM_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_SLURM_MEMORY = re.compile(r"(\d+)\s*([KMGT]?)B?", re.IGNORECASE)
_SECONDS = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}


def parse_memory(text: str) -> int:
    """Parse an amount of memory.

    Args:
        text: Number and unit, such as `"1.5 GiB"` (powers of 1024) or `"6 GB"` (powers of 1000).

    Returns:
        The amount in bytes, at least 1.

    Raises:
        ValueError: The unit is missing or unknown, or the amount is less than a byte.

    Sources:
        Slurm reads a bare number as MiB (sbatch, `--mem`), dask as bytes; so a bare number raises. Slurm's `K`, `M`
        and `G` are powers of 1024, those of others powers of 1000; so they raise, too.
    """
    found = _WITH_UNIT.fullmatch(str(text))  # also rejects numbers, which have no unit
    if found is None or found[2].lower() not in _BYTES:
        raise ValueError(f"{text!r} is not an amount of memory: write number and unit, such as '6 GB' or '1.5 GiB'")
    amount = int(float(found[1]) * _BYTES[found[2].lower()])
    if amount < 1:
        raise ValueError(f"{text!r} is less than one byte")
    return amount


def parse_seconds(text: str) -> float:
    """Parse a duration.

    Args:
        text: Number and unit, such as `"90 s"`, `"10 min"`, `"1 h 30 min"` or `"2 days"`; or hours, minutes and
            seconds, `"1:30:00"`, with days before them, `"1-12:00:00"`.

    Returns:
        The seconds, at least 0.

    Raises:
        ValueError: The unit is missing or unknown.

    Sources:
        Slurm reads a bare number as minutes (sbatch, `--time`), most others as seconds; so it raises. `1:30` is minutes
        and seconds there, and hours and minutes elsewhere; so it raises, too.
    """
    remedy = "write number and unit, such as '90 s', '10 min' or '1.5 h', or hours, minutes and seconds, '1:30:00'"
    if clock := _CLOCK.fullmatch(str(text)):
        days, hours, minutes, seconds = clock.groups(default="0")
        return int(days) * 86400.0 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    parts = _WITH_UNIT.findall(str(text))
    if not parts or _WITH_UNIT.sub("", str(text)) or any(unit.lower() not in _SECONDS for _, unit in parts):
        raise ValueError(f"{text!r} is not a duration: {remedy}")
    return math.fsum(float(number) * _SECONDS[unit.lower()] for number, unit in parts)


def slurm_seconds(value: int | str) -> int | None:
    """Seconds of a time limit as Slurm reads it; `None` if it is invalid, or means no limit (`UNLIMITED`).

    Args:
        value: Minutes, as a whole number or in text; or `minutes:seconds`, `hours:minutes:seconds`, `days-hours`,
            `days-hours:minutes` or `days-hours:minutes:seconds`.

    Sources:
        sbatch, `--time`.
    """
    if isinstance(value, int):
        return value * 60 if value > 0 and not isinstance(value, bool) else None
    match = _SLURM_TIME.fullmatch(value)
    if match is None:
        return None
    days, *parts = (int(part or 0) for part in match.groups())
    hours, minutes, seconds = parts if match[1] or match[4] else (0, *parts[:2])
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds or None


def slurm_bytes(value: int | str) -> int | None:
    """Bytes of an amount of memory as Slurm reads it; `None` if it is invalid.

    Args:
        value: A whole number, in text or not, with `K`, `M`, `G`, `T` (powers of 1024), or MiB without a unit.

    Sources:
        sbatch, `--mem`.
    """
    match = _SLURM_MEMORY.fullmatch(str(value).strip())
    return None if match is None else int(match[1]) * 1024 ** ("KMGT".index(match[2].upper() or "M") + 1)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, rounded up to a second."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def counted(number: int, unit: str, verb: str = "") -> str:
    """A number with its unit and verb: `2 jobs were`, but `1 job was`.

    Args:
        number: The number.
        unit: The unit, in the singular.
        verb: The verb, in the plural: are, were, have, or wait.
    """
    if number != 1:
        return f"{number} {unit}s {verb}".rstrip()
    return f"{number} {unit} {_SINGULAR.get(verb, '')}".rstrip()


_SINGULAR = {"are": "is", "were": "was", "have": "has", "wait": "waits"}
