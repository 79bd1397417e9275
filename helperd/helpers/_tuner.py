"""The channel thread: tunes to one channel, or hops, as the server last asked.

Rules:
  1. One thread tunes, so that a slow radio delays neither PONG nor the capture.
  2. A report to a hop request is immediate, one to a fixed channel tells how tuning went.
  3. Hops are due at fixed times from the request on: who was held up catches up, so that radios which share a list
     keep their distance.
  4. A channel that cannot be tuned while hopping is removed at the end of the round and reported without
     being asked. When none is left of a list that was asked for, it does again what it did before, and says so;
     when none is left of the list that it was opened with, the helper ends.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from helperd.errors import HelperdError
from helperd.helpers._clock import monotonic
from helperd.helpers._hop import SHORTEST_S, Hopper
from helperd.wire.messages import ConfigureReport, ConfigureRequest, Severity, Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from helperd.wire.messages import Hopping, Message


class Tuner:
    """Owns the channel thread.

    Args:
        tune: makes the radio listen to a channel; raises when it cannot.
        send: sends a message to the server.
        fail: ends the helper because of an error.
        channel: what the device was tuned to when it was opened, if it is known.
    """

    def __init__(
        self,
        tune: Callable[[str], None],
        send: Callable[[Message], None],
        fail: Callable[[str], None],
        channel: str = "",
    ) -> None:
        self._tune = tune
        self._send = send
        self._fail = fail
        self._change = threading.Condition()
        self._requests: list[ConfigureRequest] = []
        self._hopper: Hopper | None = None
        self._before: Hopper | str | None = None  # what it did before the hop list that was asked for
        self._works = True  # what it does now: something of it could be tuned
        self._channel = channel
        self._thread: threading.Thread | None = None
        self._stopped = False

    def request(self, request: ConfigureRequest) -> None:
        """Take a request from the server; answered by the thread."""
        with self._change:
            self._requests.append(request)
            self._change.notify()
        self._start()

    def hop(self, hopping: Hopping) -> Hopping:
        """Begin to hop as the device opened, without being asked; returns the plan for the open report.

        Raises:
            UsageError: "bad-definition"; the list is empty or the rate is none.
        """
        self._hopper = Hopper(hopping)
        self._works = False
        return self._hopper.report()

    def begin(self) -> None:
        """The device is open: start the thread, which hops if that was planned."""
        self._start()

    def stop(self) -> None:
        """Let the thread end; not waited for."""
        with self._change:
            self._stopped = True
            self._change.notify()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="channel", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        due = free_at = monotonic()
        while True:
            with self._change:
                while not self._requests and not self._stopped:
                    rest = max(due, free_at) - monotonic() if self._hopper is not None else None
                    if rest is not None and rest <= 0:
                        break
                    self._change.wait(None if rest is None or rest == float("inf") else rest)
                if self._stopped:
                    return
                request = self._requests.pop(0) if self._requests else None
            if request is not None:
                self._answer(request)
                due = free_at = monotonic()
            elif (hopper := self._hopper) is not None:
                self._hop_once(hopper)
                now = monotonic()
                due += hopper.interval
                if now - due > hopper.round_s:  # too late to catch up: be late by whole rounds
                    due += (now - due) // hopper.round_s * hopper.round_s
                free_at = now + SHORTEST_S

    def _answer(self, request: ConfigureRequest) -> None:
        """Do what was asked and report."""
        if request.hopping is not None:
            try:
                hopper = Hopper(request.hopping, self._hopper)
            except HelperdError as error:
                self._send(
                    ConfigureReport(request.seqno, success=False, message=error.text, problem=error.problem)
                )
                return
            if self._works:
                self._before = self._hopper or self._channel
            self._works = False
            self._hopper = hopper if hopper.rate else None
            self._send(ConfigureReport(request.seqno, hopping=hopper.report()))
            return
        why = self._try(request.channel)
        if why:
            text = f"cannot tune to channel {request.channel}: {why}"
            self._send(ConfigureReport(request.seqno, success=False, message=text))
            return
        self._hopper, self._works = None, True
        self._send(ConfigureReport(request.seqno, channel=request.channel))

    def _hop_once(self, hopper: Hopper) -> None:
        channel = hopper.next()
        why = self._try(channel)
        if why:
            hopper.fail(channel, why)
        else:
            self._works = True
        removed = hopper.sweep()
        if not removed:
            return
        reasons = "; ".join(f"{name}: {reason}" for name, reason in removed.items())
        if not hopper.channels:
            self._give_up(f"none of the channels can be tuned: {reasons}")
            return
        text = f"removed {len(removed)} channels from the hop list: {reasons}"
        self._send(ConfigureReport(0, hopping=hopper.report(), message=text))

    def _give_up(self, text: str) -> None:
        """Nothing of a list could be tuned: go back to what it did before it was asked to, or end."""
        before, self._hopper, self._before = self._before, None, None
        if before is None:
            self._fail(text)
        elif isinstance(before, Hopper):
            self._hopper, self._works = before, True
            report = before.report()
            self._send(ConfigureReport(0, hopping=report, message=f"{text}; hops as before"))
        elif before and not self._try(before):
            self._works = True
            self._send(ConfigureReport(0, channel=before, message=f"{text}; back on channel {before}"))
        else:
            self._send(Text(Severity.ERROR, f"{text}; it stays where it is"))

    def _try(self, channel: str) -> str:
        """Tune; returns why it failed, or nothing."""
        try:
            self._tune(channel)
        except HelperdError as error:
            return error.text
        except Exception as error:  # noqa: BLE001 - whatever the author's code raises is one channel's failure
            return f"{type(error).__name__}: {error}"
        self._channel = channel
        return ""
