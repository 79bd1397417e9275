"""Whether the sockets are still where they are looked for: what a cleaner of temporary files removed is made again.

Rules:
  1. A socket that lost its path is bound anew and takes the old one's place; readers that are open do not notice.
  2. What cannot be made again is told once, is a trouble while that lasts, and is tried again, ever less often.
  3. Nothing here waits: the beat that looks after helpers calls ``look``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from helperd.errors import HelperdError
from helperd.runtime import SOURCES_DIR, claim_runtime_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from helperd.sinks.listen import UnixListener

LOOK_S: Final = 1.0
MOST_S: Final = 10.0
"""Seconds between two looks, and at most where something cannot be made again."""
_NAMED: Final = 5


@dataclass(slots=True, eq=False)
class Presence:
    """Looks after the runtime directory and every unix socket that is listened at.

    Attributes:
        runtime_dir: where most sockets are.
        listeners: those that there are now.
        renew: binds one anew.
        say: takes a severity and a text for people.
        changed: called when there is another trouble, or one less.
    """

    runtime_dir: str
    listeners: Callable[[], Iterable[UnixListener]]
    renew: Callable[[UnixListener], None]
    say: Callable[[str, str], None]
    changed: Callable[[], None]
    _troubles: dict[str, HelperdError] = field(default_factory=dict)
    _due: float = 0.0
    _pause: float = LOOK_S

    def look(self, now: float) -> None:
        """Look, if it is time, and make again what is missing; ``now`` in seconds, monotonic."""
        if now < self._due:
            return
        before, self._troubles = self._troubles, {}
        made = self._folders()
        if self.runtime_dir not in self._troubles:
            made += self._sockets()
        if made:
            shown = ", ".join(made[:_NAMED])
            more = f" and {len(made) - _NAMED} more" if len(made) > _NAMED else ""
            self.say(
                "warning",
                f"somebody has removed {shown}{more}: made again; readers that were connected go on",
            )
        for path, error in self._troubles.items():
            if path not in before or before[path].text != error.text:
                self.say("error", str(error))
        self._pause = min(2 * self._pause, MOST_S) if self._troubles else LOOK_S
        self._due = now + self._pause
        if made or {*before} != {*self._troubles}:
            self.changed()

    def _folders(self) -> list[str]:
        """Make the directories that are missing; return what was made."""
        folders = (self.runtime_dir, os.path.join(self.runtime_dir, SOURCES_DIR))
        if all(map(os.path.isdir, folders)):
            return []
        try:
            return claim_runtime_dir(self.runtime_dir)
        except HelperdError as error:
            user = os.geteuid()
            cure = f"as root, install -d -o {user} -g {os.getegid()} -m 755 {self.runtime_dir}, or restart helperd"
            text = f"{self.runtime_dir} was removed and cannot be made again ({error.text.partition(';')[0]}): {cure}"
            self._troubles[self.runtime_dir] = HelperdError(error.problem, text)
            return []

    def _sockets(self) -> list[str]:
        """Bind what is missing anew; return its paths."""
        made = []
        for listener in self.listeners():
            if listener.closed or listener.is_there:
                continue
            try:
                self.renew(listener)
            except HelperdError as error:
                text = f"its socket was removed and cannot be made again: {error.text}"
                self._troubles[listener.path] = HelperdError(error.problem, text)
            else:
                made.append(listener.path)
        return made

    def troubles(self) -> list[dict[str, str]]:
        """What cannot be made again, as ``GetHealth`` shows it."""
        return [
            {"source": path, "state": "backoff", "problem": error.problem, "text": error.text}
            for path, error in self._troubles.items()
        ]
