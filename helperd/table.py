"""The table of sources and consumers: a snapshot becomes lines; ``status``, ``top`` and the live view use it.

Rules:
  1. Pure: no clock, no terminal. Every number of seconds in a snapshot is a duration, so no time is needed.
  2. Nothing that a helper or a config file said reaches the terminal unescaped.
  3. Colour repeats what a word says already; without it nothing is missing.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from helperd.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

GREEN, YELLOW, RED, BOLD, DIM = "32", "33", "31", "1", "2"

STATE_COLORS: Final = {
    "running": GREEN,
    **dict.fromkeys(("starting", "greeting", "opening", "stopping", "starved", "stalled"), YELLOW),
    **dict.fromkeys(("backoff", "failed", "hung"), RED),
    "down": DIM,
}
"""By the word of ``state_of``."""
_SHORT: Final = {"stalled-by-consumer": "stalled"}
_ORDERLY: Final = {"asked", "done"}
UNWANTED: Final = frozenset({"no-consumer", "paused"})
"""Reasons for which packets were not passed on although nothing failed: nobody asked for them."""
_NAMED: Final = 8
_ENDLESS: Final = 10**30
_UNITS: Final = ("", "k", "M", "G", "T", "P", "E")


class Cell:
    """One field of a line, and the colour it may have."""

    __slots__ = ("color", "text")

    def __init__(self, text: str, color: str = "") -> None:
        self.text = text
        self.color = color


class Column:
    """A column: its head, its width bounds, and whether it is a number (then right-aligned)."""

    __slots__ = ("head", "least", "most", "number")

    def __init__(self, head: str, least: int, most: int, *, number: bool = False) -> None:
        self.head = head
        self.least = least
        self.most = most
        self.number = number


SOURCE_COLUMNS: Final = (
    Column("SOURCE", 6, 24),
    Column("STATE", 8, 9),
    Column("RATE", 8, 10, number=True),
    Column("PACKETS", 7, 12, number=True),
    Column("LOST", 5, 10, number=True),
    Column("RESTARTS", 8, 8, number=True),
    Column("LAST", 5, 6, number=True),
    Column("", 0, 200),
)
CONSUMER_COLUMNS: Final = (
    Column("CONSUMER", 8, 10),
    Column("SINK", 8, 24),
    Column("PACKETS", 9, 12, number=True),
    Column("LOST", 7, 10, number=True),
    Column("QUEUED", 7, 8, number=True),
    Column("SINCE", 6, 6, number=True),
    Column("", 0, 200),
)


SERVICE_COLUMNS: Final = (
    Column("SERVICE", 7, 24),
    Column("STATE", 8, 9),
    Column("RESTARTS", 8, 8, number=True),
    Column("SINCE", 6, 6, number=True),
    Column("", 0, 200),
)


def columns_of(text: str) -> int:
    """Terminal columns that visible text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def fit(text: str, width: int) -> str:
    """Cut visible text to a number of columns; the last one shows ``~`` when something was cut."""
    if columns_of(text) <= width:
        return text
    if width <= 0:
        return ""
    kept, used = "", 0
    for char in text:
        used += columns_of(char)
        if used > width - 1:
            break
        kept += char
    return kept + "~"


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Cut or fill text to exactly ``width`` columns."""
    text = fit(text, width)
    room = " " * (width - columns_of(text))
    return room + text if right else text + room


def _finite(value: object) -> float | int | None:
    """The value if it is a number that can be shown."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_ENDLESS < value < _ENDLESS:
        return None
    return value


def count(value: object, digits: int = 11) -> str:
    """A count as people read it: whole while it fits ``digits`` characters, else like ``12.3M``."""
    number = _finite(value)
    if number is None:
        return "-"
    plain = f"{int(number):,}"
    if len(plain) <= digits:
        return plain
    unit = 0
    while abs(number) >= 999.95 and unit < len(_UNITS) - 1:
        number /= 1000
        unit += 1
    return f"{number:.1f}{_UNITS[unit]}"


def size(value: object) -> str:
    """Bytes as people read them: ``4.0MiB``."""
    number, unit = _finite(value), 0
    if number is None:
        return "-"
    while number >= 1023.95 and unit < len(_UNITS) - 1:
        number /= 1024
        unit += 1
    return f"{number:.1f}{_UNITS[unit].upper()}iB" if unit else f"{int(number)}B"


def rate(value: object) -> str:
    """Packets per second."""
    number = _finite(value)
    if number is None:
        return "-"
    return f"{number:.1f}/s" if 0 < number < 9.95 else f"{count(round(number), 7)}/s"


def span(seconds: object) -> str:
    """A duration in at most five characters: ``0.3s``, ``12s``, ``5m07``, ``3h20``, ``12d``."""
    number = _finite(seconds)
    if number is None:
        return "-"
    if number < 9.95:
        return f"{max(number, 0):.1f}s"
    whole = round(number)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}"
    return f"{whole // 86400}d"


LOST_IN_WORDS: Final = {
    "no-consumer": "nobody was reading",
    "paused": "the source was paused",
    "consumer-slow": "the reader was too slow",
    "consumer-left": "the reader went away",
    "disconnected": "the reader was too slow, and let go",
    "link-type": "of a link type that does not go there",
    "disk-full": "the disk was full",
    "disk-error": "the disk refused them, or did not keep them",
    "disk-stuck": "the disk did not answer",
    "file-changed": "somebody else removed or changed the file while it was written",
    "sink-failed": "the file could not be made",
    "not-installed": "a program is missing",
    "refused": "the helper sent what cannot be",
    "after-shutdown": "the helper had said that it is done",
    "bug": "an error of helperd's own",
    "partial-frame": "the helper died while writing",
    "died-unsent": "the helper died before it had sent them",
    "kernel": "the kernel had no room",
    "device": "the hardware or its driver dropped them",
    "helper-queue": "the helper was read too slowly",
    "too-long": "longer than a frame",
    "bad-record": "no packet and no record",
}
"""Why packets are lost, by the words of ``lost`` and ``lost_by``."""


def in_words(reason: str) -> str:
    """Why packets were lost, for people, with the word that the documentation has it under."""
    said = LOST_IN_WORDS.get(reason)
    return f"{said} ({reason})" if said else reason


def gone(rows: Iterable[Mapping[str, Any]]) -> str:
    """What a reload found configured no more, by kind; empty when nothing is."""
    return "; ".join(
        f"{len(row['names'])} of {row['before']} {row['kind']}{'' if row['before'] == 1 else 's'} "
        f"({', '.join(map(visible, row['names'][:_NAMED]))}{', ...' if len(row['names']) > _NAMED else ''})"
        for row in rows
    )


def losses(source: Mapping[str, Any]) -> int:
    """All packets that a source lost to somebody who wanted them; what nobody asked for is no loss to people."""
    lost = source.get("lost") or {}
    if not isinstance(lost, Mapping):
        return int(lost)
    return sum(packets for reason, packets in lost.items() if reason not in UNWANTED)


def state_of(source: Mapping[str, Any]) -> Cell:
    """The word for what a source is doing, a bad verdict before the bare state; a pause is no state, but a note."""
    word = visible(source.get("state", "?"))
    verdict = visible(source.get("verdict") or "")
    if word == "running" and verdict not in {"", "ok"}:
        word = _SHORT.get(verdict, verdict)
    return Cell(word, STATE_COLORS.get(word, ""))


def note_of(source: Mapping[str, Any]) -> str:
    """What else there is to say: why it is not running and when it tries again, else what it captures."""
    state = source.get("state")
    parts: list[str] = ["paused"] if source.get("paused") else []
    if state == "running":
        if source.get("verdict") not in {None, "", "ok"}:
            parts.append(f"{source['verdict']} {source.get('reason') or ''}".strip())
        parts += [str(source[key]) for key in ("hardware", "definition") if source.get(key)][:1]
        if source.get("channel"):
            parts.append(f"channel {source['channel']}")
        return visible(", ".join(parts))
    if state in {"down", "failed", "stopping"}:
        parts += [str(source[key]) for key in ("why", "rung") if source.get(key)]
    ended, text = source.get("exit"), ""
    if ended and state in {"backoff", "failed", "starting", "down"} and ended.get("problem") not in _ORDERLY:
        parts.append(str(ended.get("problem")))
        text = f": {_cause(ended, '' if state == 'starting' else (source.get('stderr') or [''])[-1])}"
    if source.get("next_try_s") is not None:
        parts.append(f"retry in {span(source['next_try_s'])}")
    return visible("; ".join(parts) + text)


def _cause(ended: Mapping[str, Any], words: str) -> str:
    """Why it ended, with its last words where they can say more: a refusal says all there is."""
    text = str(ended.get("text"))
    if not words or ended.get("kind") not in {"accident", "config"} or words in text:
        return text
    return f"{text.removeprefix('the helper exited with ')}: {words}"


def source_cells(source: Mapping[str, Any]) -> list[Cell]:
    """One source's line, by ``SOURCE_COLUMNS``."""
    lost = losses(source)
    restarts = source.get("restarts", 0)
    return [
        Cell(visible(source.get("name", "?"))),
        state_of(source),
        Cell(rate(source.get("rate"))),
        Cell(count(source.get("packets"))),
        Cell(count(lost, 7), YELLOW if lost else ""),
        Cell(count(restarts, 7), YELLOW if restarts else ""),
        Cell(span(source.get("age_s"))),
        Cell(note_of(source), YELLOW if source.get("paused") else DIM),
    ]


def consumer_cells(consumer: Mapping[str, Any]) -> list[Cell]:
    """One consumer's line, by ``CONSUMER_COLUMNS``."""
    lost = consumer.get("lost", 0)
    why = consumer.get("lost_by") or {}
    durable = consumer.get("durable")
    kept = "" if durable is None else f"durable: {durable:,}"
    who = [
        f"{word} {consumer[key]}" for word, key in (("pid", "pid"), ("uid", "uid")) if _known(consumer, key)
    ]
    return [
        Cell(visible(consumer.get("id", "?"))),
        Cell(visible(consumer.get("sink", "?"))),
        Cell(count(consumer.get("packets"))),
        Cell(count(lost, 7), YELLOW if lost else ""),
        Cell(size(consumer.get("queued_bytes"))),
        Cell(span(consumer.get("connected_s"))),
        Cell(
            visible(
                ", ".join(filter(None, (" ".join(who), kept, *(f"lost: {reason}" for reason in sorted(why)))))
            ),
            DIM,
        ),
    ]


def service_cells(service: Mapping[str, Any]) -> list[Cell]:
    """One service's line, by ``SERVICE_COLUMNS``: its last words while it runs, else why it does not."""
    restarts = service.get("restarts", 0)
    words = service.get("stderr") or [""]
    note = visible(words[-1]) if service.get("state") == "running" else note_of(service)
    return [
        Cell(visible(service.get("name", "?"))),
        state_of(service),
        Cell(count(restarts, 7), YELLOW if restarts else ""),
        Cell(span(service.get("since_s"))),
        Cell(note, DIM),
    ]


def _known(consumer: Mapping[str, Any], key: str) -> bool:
    return isinstance(consumer.get(key), int) and consumer[key] >= 0


def widths_of(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], width: int) -> list[int]:
    """Columns' widths: as wide as their widest cell, inside their bounds; the last one gets the rest."""
    wide = [max(column.least, len(column.head)) for column in columns]
    for row in rows:
        for at, cell in enumerate(row):
            wide[at] = max(wide[at], min(columns_of(cell.text), columns[at].most))
    used = sum(wide[:-1]) + len(columns) - 1
    wide[-1] = max(0, width - used)
    return wide


def line(
    cells: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int], width: int, *, color: bool
) -> str:
    """Put cells into one line of at most ``width`` columns, without trailing blanks."""
    plain = [
        pad(cell.text, wide, right=column.number)
        for cell, column, wide in zip(cells, columns, widths, strict=True)
    ]
    plain[-1] = plain[-1].rstrip()
    joined = " ".join(plain).rstrip()
    if not color or columns_of(joined) > width:
        return fit(joined, width)
    painted = [
        f"\033[{cell.color}m{text}\033[0m" if cell.color and text.strip() else text
        for cell, text in zip(cells, plain, strict=True)
    ]
    return " ".join(painted).rstrip()


def block(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int, *, color: bool) -> list[str]:
    """A head line and one line per row."""
    widths = widths_of(columns, rows, width)
    head = [Cell(column.head, BOLD) for column in columns]
    return [line(cells, columns, widths, width, color=color) for cells in (head, *rows)]


def summary(snapshot: Mapping[str, Any]) -> str:
    """One line about the daemon and the sum of its sources."""
    sources = snapshot.get("sources", [])
    running = sum(source.get("state") == "running" for source in sources)
    rates = [found for source in sources if (found := _finite(source.get("rate"))) is not None]
    total = sum(rates) if rates or not running else None
    consumers = len(snapshot.get("consumers", []))
    health = snapshot.get("health")
    words = sorted({str(sink["problem"]) for sink in snapshot.get("sinks", []) if sink.get("problem")})
    words += sorted({str(trouble["source"]) for trouble in snapshot.get("troubles") or []})
    bad = "" if health in {None, "ok"} else f", {', '.join(words) or health}"
    return visible(
        f"helperd {snapshot.get('version', '?')}, up {span(snapshot.get('uptime_s'))}{bad}: "
        f"{running} of {len(sources)} sources running, {rate(total)}, {consumers} consumer{'s' * (consumers != 1)}"
    )


def render(snapshot: Mapping[str, Any], width: int = 80, color: bool = False) -> list[str]:  # noqa: FBT001, FBT002
    """A snapshot as lines: the sources, then services, consumers, what was lost before, and what fails.

    Args:
        snapshot: what ``ControlApi.snapshot`` returns and ``GetStatus`` replies.
        width: terminal columns; no line is wider.
        color: add SGR escapes.
    """
    sources = snapshot.get("sources", [])
    lines = block(SOURCE_COLUMNS, [source_cells(source) for source in sources], width, color=color)
    if not sources:
        lines.append(fit("no sources; add a [[source]] to the configuration", width))
    services = snapshot.get("services") or []
    if services:
        lines.append("")
        lines += block(SERVICE_COLUMNS, [service_cells(service) for service in services], width, color=color)
    consumers = snapshot.get("consumers", [])
    if consumers:
        lines.append("")
        lines += block(
            CONSUMER_COLUMNS, [consumer_cells(consumer) for consumer in consumers], width, color=color
        )
    lost = lost_before(snapshot)
    if lost:
        lines += ["", fit(visible(lost), width)]
    failing = [sink for sink in snapshot.get("sinks", []) if sink.get("problem")]
    if failing:
        lines.append("")
        lines += [fit(visible(sink_trouble(sink)), width) for sink in failing]
    troubles = snapshot.get("troubles") or []
    if troubles:
        lines.append("")
        lines += [fit(visible(trouble_text(trouble)), width) for trouble in troubles]
    return lines


def lost_before(snapshot: Mapping[str, Any]) -> str:
    """What readers that have left, sinks that are gone and sources that were removed have lost; empty: nothing."""
    gone = snapshot.get("gone") or {}
    readers: Counter[str] = Counter()
    for left in (gone.get("left"), *(sink.get("left") for sink in snapshot.get("sinks", []))):
        readers.update((left or {}).get("lost") or {})
    sources = {
        reason: packets for reason, packets in (gone.get("lost") or {}).items() if reason not in UNWANTED
    }
    told = [
        f"{who} {count(sum(lost.values()))} ({by_reason(lost)})"
        for who, lost in (("readers that have left", readers), ("sources that were removed", sources))
        if any(lost.values())
    ]
    return f"lost before: {'; '.join(told)}" if told else ""


def by_reason(lost: Mapping[str, int]) -> str:
    """Counts with their reasons: ``bad-frame 3, consumer-slow 1,200``."""
    return ", ".join(f"{reason} {count(lost[reason])}" for reason in sorted(lost) if lost[reason])


def trouble_text(trouble: Mapping[str, Any]) -> str:
    """What is wrong with a part of helperd's own."""
    return f"{trouble.get('source')}: {trouble.get('state')}: {trouble.get('problem')}: {trouble.get('text')}"


def sink_trouble(sink: Mapping[str, Any]) -> str:
    """What is wrong with a sink."""
    return f"{sink.get('name')}: {sink.get('state')}: {sink['problem']}: {sink.get('text')}"
