"""Whether one incarnation lives: PINGs sent, silence judged, children counted, time limits kept.

Rules:
  1. Nothing here waits. The supervisor's one heartbeat calls ``turn`` of every watch, four times a second.
  2. Sending is apart from judging: a helper is asked in time, whatever is thought of it.
  3. Time in which we were away ourselves is nobody's fault: every limit moves on by it. Nor is time in which the helper
     lacked processor time, or was frozen: the limit begins anew.
  4. The shown word stays until a byte proves it wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from helperd import cgroups, vitals
from helperd.lifecycle import ChildWatch, Evidence, Patience, Verdict, verdict

if TYPE_CHECKING:
    from helperd.channel import Channel
    from helperd.config.sources import SourceSpec
    from helperd.config.specs import HelperSpec
    from helperd.routing import Route

OWN_PING_S: Final = 1.0
FOREIGN_PING_S: Final = 5.0
FOREIGN_DEADLINE_S: Final = 15.0
"""What Kismet's own helpers and servers wait (kismet-protocol.md, section 3.3)."""
WINDOWS: Final = 2.5
"""Intervals without a byte after which a helper is judged, where its interval is ours to choose."""
STUCK_PINGS: Final = 3


class Finding(NamedTuple):
    """What a turn found.

    Attributes:
        word: ``hung``, ``timed-out``, ``alert`` (it is only told) or ``not-listening`` (a note).
        reason: the problem word.
        text: for people.
    """

    word: str
    reason: str
    text: str


class Moment(NamedTuple):
    """What a turn is told of the world.

    Attributes:
        now: seconds, monotonic.
        lag: seconds that our own loop was away before this turn.
        lagged_at: when it last was, for those who look at longer windows.
    """

    now: float
    lag: float
    lagged_at: float


class _Look(NamedTuple):
    """What the scheduler had done with the process at one moment, in seconds, monotonic."""

    at: float
    turn: vitals.Turn | None


@dataclass(slots=True, eq=False)
class Watch:
    """The watch over one process and its channel.

    Attributes:
        greeted: PINGs may be sent; before, the greeting is one.
        running: it is judged; before, a time limit does that, or whether it answers PING where there is none.
        word: what status shows; ``reason`` beside it.
        limit_at: when what is awaited now must have come; None: nothing is. ``limit_text`` names it.
    """

    channel: Channel
    pid: int
    helper: HelperSpec
    route: Route
    since: float
    greeted: bool = False
    running: bool = False
    word: str = "ok"
    reason: str = ""
    limit_at: float | None = None
    limit_text: str = ""
    renewed_at: float = -1.0
    _pinged_at: float | None = None
    _asked_at: float = 0.0
    _next_ping_at: float = 0.0
    _window: _Look | None = None
    _limit: _Look | None = None
    _limit_s: float = 0.0
    _lull: _Look | None = None
    _children: ChildWatch | None = None
    _silence: Patience | None = None
    _told_stuck: bool = False
    _told_childless: bool = False
    _own: bool = field(init=False)

    def __post_init__(self) -> None:
        self._own = self.helper.builtin is not None
        self._next_ping_at = self.since + self.interval  # the greeting was one already

    @property
    def interval(self) -> float:
        """Seconds between PINGs."""
        return self.helper.keepalive or (OWN_PING_S if self._own else FOREIGN_PING_S)

    @property
    def deadline(self) -> float:
        """Seconds of silence after which it is judged."""
        if self.helper.keepalive or self._own:
            return WINDOWS * self.interval
        return FOREIGN_DEADLINE_S

    def await_within(self, seconds: float, now: float, what: str, key: str) -> None:
        """Let ``turn`` find "timed-out" after a time, unless ``run`` comes first.

        Args:
            seconds: the limit; 0: none, for as long as it answers PING.
            now: from when on.
            what: what is awaited, for people.
            key: the key of the helper's block that says how long.
        """
        self.limit_at = now + seconds if seconds else None
        self._limit, self._limit_s = None, seconds
        self.limit_text = f"{what} did not come within {seconds:g} s ({key} of [[helper]] {self.helper.name})"
        self.renewed_at = now

    def run(self, now: float) -> None:
        """What was awaited came, and the source runs: from now on it is judged."""
        self.limit_at = None
        self.running = True
        self.renewed_at = now

    def turn(self, moment: Moment, spec: SourceSpec, last_packet_at: float | None) -> Finding | None:
        """Ask and judge, if it is time."""
        now = moment.now
        if self.limit_at is not None:
            self.limit_at += moment.lag
            self._limit = self._limit or _Look(now, vitals.run_queue(self.pid))
            if now >= self.limit_at and not self._extended(now):
                return Finding("timed-out", "timed-out", self.limit_text)
        if self.greeted:
            self._ask(now)
        if not self.greeted or self.limit_at is not None:
            return None
        judged = self._judge(moment)
        if judged is not None and judged.hung:
            silent = f"no byte for {now - max(self.channel.life_at, self.since):.1f} s, PING unanswered"
            return Finding("hung", judged.reason, silent)
        if not self.running:
            return None
        if self.helper.needs_child:
            found = self._childless(now)
            if found is not None:
                return found
        limit = self.helper.silence if spec.silence is None else spec.silence
        if limit:
            found = self._silent(moment, limit, spec.on_silence or self.helper.on_silence, last_packet_at)
            if found is not None:
                return found
        if self.channel.pings_stuck >= STUCK_PINGS and not self._told_stuck:
            self._told_stuck = True
            return Finding("not-listening", "not-listening", "it does not read what it is sent")
        return None

    def _starved(self, since: _Look | None, now: float) -> bool:
        """Whether it had no processor time to answer in since it was looked at, or is frozen now."""
        if cgroups.is_frozen(self.pid):
            return True
        return since is not None and vitals.starved(since.turn, vitals.run_queue(self.pid), now - since.at)

    def _extended(self, now: float) -> bool:
        """Give it as long again when it lacked processor time for what was awaited."""
        if not self._starved(self._limit, now):
            return False
        self.limit_at, self._limit = now + self._limit_s, None
        self.word, self.reason, self.renewed_at = "starved", "its", now
        return True

    def _ask(self, now: float) -> None:
        channel = self.channel
        if self._own:
            due = now - max(channel.life_at, self._asked_at) >= self.interval * 0.9
        else:
            due = now >= self._next_ping_at
        window_at = max(channel.life_at, self.renewed_at)
        if self._pinged_at is not None and self._pinged_at < window_at:
            self._pinged_at = self._window = None
        if self._pinged_at is not None and self._window is None:
            self._window = _Look(now, vitals.run_queue(self.pid))
        if not due:
            return
        self._asked_at = now
        self._next_ping_at = now + self.interval
        channel.ping()
        if self._pinged_at is None:
            self._pinged_at = now

    def _judge(self, moment: Moment) -> Verdict | None:
        """Judge a silence that has lasted; None when there was none."""
        now, channel = moment.now, self.channel
        window_at = max(channel.life_at, self.renewed_at)
        if now - window_at <= self.deadline:
            if channel.life_at > self.renewed_at:
                self.word, self.reason = "ok", ""
            return None
        judged = verdict(
            Evidence(
                now,
                window_at,
                self._pinged_at,
                holding=bool(self.route.holding()),
                our_lag=moment.lagged_at > window_at,
                readable=channel.readable(),
                runnable_starved=self._starved(self._window, now),
                proc_state=vitals.process_state(self.pid),
            ),
            self.deadline,
        )
        if judged.life_at > window_at:
            self.renewed_at = judged.life_at
        if judged.life_at > window_at or judged.hung:
            self.word, self.reason = judged.word, judged.reason
        return judged

    def _childless(self, now: float) -> Finding | None:
        """Judge a helper that lacks a process it depends on; as an alert it is told once, until all are there again."""
        children = self._children
        if children is None or children.needed != self.helper.needs_child:
            children = self._children = ChildWatch(self.helper.needs_child)
        if not children.gone(vitals.living_descendants(self.pid), now):
            self._told_childless = self._told_childless and children.missing_at is not None
            return None
        alert = self.helper.on_child_gone == "alert"
        if alert and self._told_childless:
            return None
        self._told_childless = alert
        return Finding("alert" if alert else "hung", "child-gone", "a process the helper depends on is gone")

    def _silent(
        self, moment: Moment, limit: float, reaction: str, last_packet_at: float | None
    ) -> Finding | None:
        """Judge a helper that answers and sends no packet."""
        now, silence = moment.now, self._silence
        if silence is None or silence.limit != limit:
            silence = self._silence = Patience(limit, now)
        if last_packet_at is not None and last_packet_at > silence.since:
            silence.seen(last_packet_at)
            self._lull = None
        held = self.route.holding() or moment.lagged_at > now - 1.0 or self.word == "starved"
        silence.hold(now, held=bool(held))
        if self._lull is None and silence.waited(now) > limit / 2:
            self._lull = _Look(now, vitals.run_queue(self.pid))
        if not silence.over(now):
            return None
        silence.seen(now)
        lull, self._lull = self._lull, None
        if self._starved(lull, now):
            return None
        return Finding("alert" if reaction == "alert" else "hung", "silent", f"no packet for {limit:g} s")
