"""The daemon's log, and what a helper may write into it.

Rules:
  1. Logging never blocks and never raises: a line goes into a bounded queue, one thread writes it.
  2. A full queue, a full disk, a reader that is stuck cost log lines and a counter, nothing else.
  3. Equal lines are folded: the first is written, then "repeated N times".
  4. Nothing a helper wrote reaches a terminal or a log unescaped.

Wall-clock time is printed here and compared nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import socket
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from helperd.visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""Level word -> syslog priority."""
MAX_TEXT = 8192
DAY_BYTES = 8 << 20
"""Bytes of its own words that a source may put into the log a day; once as many more, after a day of silence."""
JOURNAL_SOCKET = "/run/systemd/journal/socket"

Field = str | int | float | bool | None


# What a helper writes to stderr.


@dataclass(slots=True)
class Bucket:
    """A token bucket; time is an argument.

    Attributes:
        size: tokens when full.
        rate: tokens that come back per second.
        tokens: left; the last spender may bring it below zero.
        at: when it was last filled.
    """

    size: float
    rate: float
    tokens: float
    at: float

    def fill(self, now: float) -> None:
        """Add what has come back since the last time."""
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now


class Allowance:
    """What one source may put into the log: lines and bytes at once and per second, and bytes a day.

    It outlives the source's helpers, so that a crash loop has no more than a helper that stays.
    """

    __slots__ = ("_buckets",)

    def __init__(self, now: float) -> None:
        self._buckets = (
            Bucket(100, 10, 100, now),
            Bucket(65536, 65536, 65536, now),
            Bucket(DAY_BYTES, DAY_BYTES / 86400, DAY_BYTES, now),
        )

    def fill(self, now: float) -> None:
        """Add what has come back."""
        for bucket in self._buckets:
            bucket.fill(now)

    @property
    def left(self) -> bool:
        """Whether one more line may pass."""
        return all(bucket.tokens >= 1 for bucket in self._buckets)

    def spend(self, nbytes: int) -> None:
        """One line of so many bytes has passed."""
        lines, burst, day = self._buckets
        lines.tokens -= 1
        burst.tokens -= nbytes
        day.tokens -= nbytes


class StderrLines:
    """Cuts a helper's stderr into lines that are fit to be logged, within a budget.

    A burst of 100 lines and 64 KiB passes, then 10 lines/s and 64 KiB/s, and 8 MiB a day; the rest is dropped and
    counted. Equal neighbours are folded and cost nothing. Every line ends up in exactly one of ``passed``, ``folded``
    and ``dropped``.

    Attributes:
        passed: lines handed out, without the remarks this class adds.
        folded: lines equal to the one before.
        dropped: lines over the budget.
        cut: lines that were longer than 4 KiB and lost their end.
        allowance: its budget; its own, if it is given no other.
    """

    MAX_LINE = 4096
    KEPT = 20
    KEPT_BYTES = 16384
    FOLD_S = 10.0

    def __init__(self, now: float) -> None:
        self.passed = self.folded = self.dropped = self.cut = 0
        self._partial = bytearray()
        self.allowance = Allowance(now)
        self._last: deque[tuple[bytes, int]] = deque(maxlen=self.KEPT)
        self._previous: bytes | None = None
        self._repeats = 0
        self._repeats_at = now
        self._unsaid = 0

    @property
    def last(self) -> list[str]:
        """The last 20 lines, oldest first, dropped ones too; equal neighbours as one; 16 KiB at most, and one line."""
        kept: list[str] = []
        room = self.KEPT_BYTES
        for raw, n in reversed(self._last):
            shown = _render(raw) + (f" ({_again(n)})" if n else "")
            room -= len(shown)
            if room < 0 and kept:
                break
            kept.append(shown)
        return kept[::-1]

    def feed(self, data: bytes, now: float) -> list[str]:
        """Take what was read; return what is to be logged: escaped, without line ends."""
        lines = data.split(b"\n")
        tail = lines.pop()
        if lines:
            lines[0] = bytes(self._partial) + lines[0]
            self._partial.clear()
        self._partial += tail[: self.MAX_LINE + 1 - len(self._partial)]
        out: list[str] = []
        self._take(lines, now, out)
        if now - self._repeats_at >= self.FOLD_S:
            self._say_repeats(now, out)
        return out

    def close(self, now: float) -> list[str]:
        """The pipe has ended: return what is left to be logged."""
        out: list[str] = []
        if self._partial:
            self._take([bytes(self._partial)], now, out)
            self._partial.clear()
        self._say_repeats(now, out)
        self._say_dropped(out)
        return out

    def _take(self, lines: list[bytes], now: float, out: list[str]) -> None:
        self.allowance.fill(now)
        for index, line in enumerate(lines):
            if line == self._previous:
                self.folded += 1
                self._repeats += 1
                raw, n = self._last.pop()
                self._last.append((raw, n + 1))
            elif self.allowance.left:
                self._say_repeats(now, out)
                self._say_dropped(out)
                self._pass(line, out)
            else:
                self._drop(lines[index:])  # a flood is not looked at line by line
                return

    def _pass(self, line: bytes, out: list[str]) -> None:
        self._previous = line
        self.passed += 1
        self.cut += len(line) > self.MAX_LINE
        self._last.append((line[: self.MAX_LINE], 0))
        shown = _render(line[: self.MAX_LINE])
        self.allowance.spend(max(len(line), len(shown)))
        out.append(shown)

    def _drop(self, lines: list[bytes]) -> None:
        self._previous = None
        self.dropped += len(lines)
        self._unsaid += len(lines)
        self._last.extend((line[: self.MAX_LINE], 0) for line in lines[-self.KEPT :])

    def _say_repeats(self, now: float, out: list[str]) -> None:
        if self._repeats:
            out.append(f"({_again(self._repeats)})")
        self._repeats = 0
        self._repeats_at = now

    def _say_dropped(self, out: list[str]) -> None:
        if self._unsaid:
            out.append(f"({self._unsaid} lines dropped: more than the budget)")
        self._unsaid = 0


def _again(times: int) -> str:
    return "repeated once" if times == 1 else f"repeated {times} times"


def _render(raw: bytes) -> str:
    return visible(raw.removesuffix(b"\r").decode(errors="backslashreplace"))


# The daemon's own log.


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log.

    Attributes:
        at: wall-clock time, aware.
        level: a key of ``LEVELS``.
        text: the sentence.
        fields: what a program wants to know; ``source`` is shown first.
    """

    at: datetime
    level: str
    text: str
    fields: Mapping[str, Field]


def as_text(line: Line) -> bytes:
    """``2026-01-31 12:00:00.123 warning wlan0: text (problem=keepalive)``; a traceback follows, indented."""
    fields = dict(line.fields)
    source = fields.pop("source", None)
    trace = fields.pop("traceback", None)
    words = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
    out = f"{line.at.astimezone():%Y-%m-%d %H:%M:%S}.{line.at.microsecond // 1000:03d} {line.level:<7} "
    out += (
        visible(f"{source}: " if source else "")
        + visible(line.text)
        + (f" ({visible(words)})" if words else "")
    )
    for row in str(trace or "").splitlines():
        out += f"\n    {visible(row)}"
    return out.encode(errors="backslashreplace") + b"\n"


def as_json(line: Line) -> bytes:
    """One JSON object and a line end: time (RFC 3339, UTC), level, text, and the fields."""
    time_of_day = line.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record = {"time": time_of_day, "level": line.level, "text": line.text, **line.fields}
    return json.dumps(record, separators=(",", ":"), default=str).encode() + b"\n"


def as_journal(line: Line) -> bytes:
    """One datagram of systemd's native journal protocol: ``NAME=value``, or name, length and value.

    Source of the form: systemd, docs/JOURNAL_NATIVE_PROTOCOL.
    """
    fields = {"MESSAGE": visible(line.text), "PRIORITY": LEVELS[line.level], "SYSLOG_IDENTIFIER": "helperd"}
    fields |= {f"HELPERD_{name.upper()}": value for name, value in line.fields.items() if value is not None}
    if line.fields.get("source"):
        fields["MESSAGE"] = visible(f"{line.fields['source']}: {line.text}")
    out = bytearray()
    for name, value in fields.items():
        raw = str(value).encode(errors="backslashreplace")
        if b"\n" in raw:
            out += name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
        else:
            out += name.encode() + b"=" + raw + b"\n"
    return bytes(out)


FORMS: dict[str, Callable[[Line], bytes]] = {"text": as_text, "json": as_json, "journal": as_journal}


def choose_form(fd: int, environ: Mapping[str, str] = os.environ) -> str:
    """Text on a terminal, journal fields where systemd reads the descriptor, else JSON lines."""
    if os.isatty(fd):
        return "text"
    with contextlib.suppress(OSError):
        status = os.fstat(fd)
        if environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}":
            return "journal"
    return "json"


class Fold:
    """Folds equal lines: the first passes, repeats within ``window`` seconds are counted.

    Time is an argument. A count has the time at which it is told, so that it stands in order among the others. At most
    ``size`` different lines are remembered; the oldest goes first.

    Attributes:
        repeats: counted and not yet told.
    """

    def __init__(self, window: float = 10.0, size: int = 256) -> None:
        self.window = window
        self.size = size
        self.repeats = 0
        self._seen: dict[tuple[str, str, Field], tuple[float, int, Line]] = {}

    def admit(self, line: Line, now: float) -> list[Line]:
        """Return what is to be written: nothing for a repeat; a due count first, for a new window."""
        key = (line.level, line.text, line.fields.get("source"))
        known = self._seen.get(key)
        if known is not None and now - known[0] < self.window:
            self._seen[key] = (known[0], known[1] + 1, line)
            self.repeats += 1
            return []
        out = self.due(now, line.at)
        if len(self._seen) >= self.size:
            out += self._tell(next(iter(self._seen)), line.at)
        self._seen[key] = (now, 0, line)
        return [*out, line]

    def due(self, now: float, told: datetime, *, all_of_them: bool = False) -> list[Line]:
        """Return the counts of windows that are over, oldest first."""
        out: list[Line] = []
        for key, (at, _, _) in list(self._seen.items()):
            if now - at < self.window and not all_of_them:
                break
            out += self._tell(key, told)
        return out

    def _tell(self, key: tuple[str, str, Field], told: datetime) -> list[Line]:
        _, repeats, line = self._seen.pop(key)
        if not repeats:
            return []
        self.repeats -= repeats
        return [Line(told, line.level, f"{line.text} ({_again(repeats)})", line.fields)]


@dataclass(slots=True)
class LogCounts:
    """What became of the log's lines.

    Attributes:
        written: to the descriptor or the journal.
        folded: repeats that were only counted.
        dropped: the queue was full: the disk or the reader is too slow.
        lost: could not be written; ``why`` says the last reason.
    """

    written: int = 0
    folded: int = 0
    dropped: int = 0
    lost: int = 0
    why: str = ""


class Log:
    """The daemon's log; safe to be called from any thread, and from the loop.

    Attributes:
        counts: for status.
    """

    def __init__(
        self,
        fd: int = 2,
        *,
        form: str = "auto",
        level: str = "info",
        max_lines: int = 1000,
        journal: str = JOURNAL_SOCKET,
        clock: Callable[[], float] = time.monotonic,  # noqa: TID251 - a thread's folding; decides about lines only
    ) -> None:
        self.counts = LogCounts()
        self.form = choose_form(fd) if form == "auto" else form
        self.priority = LEVELS[level]
        self._fd = fd
        self._journal = journal
        self._clock = clock
        self._max_lines = max_lines
        self._queue: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._fold = Fold()
        self._told = LogCounts()
        self._cut = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def debug(self, text: str, **fields: Field) -> None:
        """What only a developer wants to know."""
        self.write("debug", text, fields)

    def info(self, text: str, **fields: Field) -> None:
        """What happened as it should."""
        self.write("info", text, fields)

    def warning(self, text: str, **fields: Field) -> None:
        """What went wrong and is dealt with."""
        self.write("warning", text, fields)

    def error(self, text: str, **fields: Field) -> None:
        """What went wrong and needs somebody."""
        self.write("error", text, fields)

    def bug(self, text: str, error: BaseException, **fields: Field) -> None:
        """An error of our own, with its traceback."""
        trace = "".join(traceback.format_exception(error))[-MAX_TEXT:]
        self.write("error", text, {"problem": "bug", **fields, "traceback": trace})

    def write(self, level: str, text: str, fields: Mapping[str, Field]) -> None:
        """Queue one line; what does not fit is counted."""
        if LEVELS[level] > self.priority:
            return
        if self._queue.qsize() >= self._max_lines:
            self.counts.dropped += 1
            return
        self._queue.put(Line(datetime.now(UTC), level, text[:MAX_TEXT], fields))

    def close(self, timeout: float = 1.0) -> bool:
        """Write what is queued, for at most ``timeout`` seconds; False when the reader was stuck."""
        self._queue.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        """Serve until closed; an error of our own costs a line, never the log."""
        while True:
            try:
                self._serve()
            except Exception as error:  # noqa: BLE001 - there is nobody else to tell it to
                self.counts.lost += 1
                self.counts.why = f"{type(error).__name__}: {error}"
            else:
                return

    def _serve(self) -> None:
        while True:
            wait = self._fold.window if self._fold.repeats else None
            try:
                line = self._queue.get(timeout=wait)
            except queue.Empty:
                self._write(self._fold.due(self._clock(), datetime.now(UTC)))
                continue
            if line is None:
                self._write(self._fold.due(self._clock(), datetime.now(UTC), all_of_them=True))
                return
            ready = self._fold.admit(line, self._clock())
            self.counts.folded += line not in ready
            self._write(ready)

    def _write(self, lines: list[Line]) -> None:
        for line in lines:
            if self._send(line):
                self.counts.written += 1
                self._own_up(line)
            else:
                self.counts.lost += 1

    def _own_up(self, line: Line) -> None:
        """Say, once it is possible again, how many lines are missing."""
        lost, dropped = self.counts.lost, self.counts.dropped
        reasons = [
            f"{lost - self._told.lost} log lines could not be written: {self.counts.why}",
            f"{dropped - self._told.dropped} log lines were dropped: the log is read too slowly",
        ]
        for reason in reasons:
            if not reason.startswith("0 ") and not self._send(Line(line.at, "warning", reason, {})):
                return
        self._told.lost, self._told.dropped = lost, dropped

    def _send(self, line: Line) -> bool:
        try:
            if self.form == "journal":
                self._to_journal(line)
            else:
                self._to_fd(FORMS[self.form](line))
        except (OSError, ValueError, TypeError) as error:
            self.counts.why = getattr(error, "strerror", None) or str(error)
            return False
        return True

    def _to_journal(self, line: Line) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(as_journal(line), self._journal)

    def _to_fd(self, data: bytes) -> None:
        """Write all of it; only this thread waits. A line cut by an error is ended before the next."""
        if self._cut:
            data = b"\n" + data
        done = 0
        try:
            while done < len(data):
                try:
                    done += os.write(self._fd, data[done:])
                except BlockingIOError:
                    poll = select.poll()
                    poll.register(self._fd, select.POLLOUT)
                    poll.poll()
        finally:
            self._cut = 0 < done < len(data) or (self._cut and done == 0)
