"""[[helper]]: the keys that say how a helper is spoken to, and for how long. The launcher does not load this: what it
starts does not depend on them.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from helperd.config import values as v
from helperd.config.keys import MAX_TIMEOUT_S, Key
from helperd.config.values import BUILTIN, Kind, one_line, texts

if TYPE_CHECKING:
    from helperd.config.check import Entry

SHARED = frozenset({"interface", "pcapfile", "synthetic"})
"""Builtin helpers that any number of sources may use on one device."""
PATIENT = frozenset({"pipe", "extcap"})
"""Builtin helpers that open when their program has something to say, whenever that is."""
OPEN_S = 30.0
"""Seconds that others have to open, as under Kismet's servers."""


def _lowered(value: object, what: str, one: str) -> tuple[str, ...]:
    """Return names, lower-cased as servers do, each once; ``what`` they are, and what ``one`` is."""
    found = [one_line(item, f"an array of {what}").lower() for item in texts(value, what)]
    for item in found:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", item):
            msg = f"has {item!r}, which is no {one} (letters, digits, _ . -)"
            raise ValueError(msg)
    return tuple(dict.fromkeys(found))


TYPES = Kind("array of source types", partial(_lowered, what="source types", one="source type"))
OPTIONS = Kind("array of option names", partial(_lowered, what="option names", one="name of an option"))
HELPER: tuple[Key, ...] = (
    Key(
        "helper",
        "types",
        TYPES,
        "Source types (type= in a definition) that the helper serves.",
        default=(),
    ),
    Key(
        "helper",
        "wire",
        v.choice("auto", "v0", "v2", "v3"),
        "Generation of the helper protocol. auto finds out and remembers; v0 saves old helpers a "
        "second start.",
        default="auto",
        needs_process=True,
    ),
    Key(
        "helper",
        "verify",
        v.BOOLEAN,
        "Check the checksums of generation v0 (slow for high packet rates).",
        default=True,
    ),
    Key(
        "helper",
        "obeys_shutdown",
        v.BOOLEAN,
        "Ends by itself on a SHUTDOWN message.",
        otherwise="true for builtin helpers",
    ),
    Key(
        "helper",
        "status_meaningful",
        v.BOOLEAN,
        "Exit status 0 means done. Kismet's C helpers end with 1 after success, so theirs means nothing.",
        otherwise="true for builtin helpers",
    ),
    Key(
        "helper",
        "needs_child",
        v.integer(0, 64),
        "For helpers that wrap a program: how many child processes must live. Fewer, once that many "
        "were seen, and the helper is restarted (child-gone).",
        default=0,
    ),
    Key(
        "helper",
        "on_child_gone",
        v.choice("restart", "alert"),
        "What happens when fewer of its child processes live than needs_child: the helper is restarted, or only a "
        "message is published.",
        default="restart",
    ),
    Key(
        "helper",
        "keepalive",
        v.duration(0.5, 60.0),
        "Time between PINGs. A helper from which nothing comes for two and a half times as long is judged, and "
        "restarted if it hangs. Kismet's own helpers need a PING within 15s.",
        otherwise="1s for builtin helpers; 5s for others, which are judged after 15s",
    ),
    Key(
        "helper",
        "greet_timeout",
        v.duration(0.1, MAX_TIMEOUT_S, zero=True),
        "How long its first answer may take: its start, and the answer to the first PING. 0s: as long as it lives.",
        default="15s",
    ),
    Key(
        "helper",
        "open_timeout",
        v.duration(0.1, MAX_TIMEOUT_S, zero=True),
        "How long it may take to open its device. 0s: as long as it answers PING.",
        otherwise="0s for builtin:pipe and builtin:extcap, whose programs may be silent for as long as they live; "
        "else 30s",
    ),
    Key(
        "helper",
        "configure_timeout",
        v.duration(0.1, MAX_TIMEOUT_S),
        "How long it may take to tune, or to take a list of channels over.",
        default="10s",
    ),
    Key(
        "helper",
        "can_list",
        v.BOOLEAN,
        "Whether it is asked for its devices. false saves the start of a helper that has none to name.",
        otherwise="it is asked, and what it says counts",
    ),
    Key(
        "helper",
        "can_probe",
        v.BOOLEAN,
        "Whether it is asked if a definition without type= is its own.",
        otherwise="it is asked",
    ),
    Key(
        "helper",
        "can_tune",
        v.BOOLEAN,
        "Whether its channel can be set while it runs.",
        otherwise="it can if it names channels when it opens",
    ),
    Key(
        "helper",
        "can_hop",
        v.BOOLEAN,
        "Whether it hops over a list of channels by itself.",
        otherwise="it can if it names more than one channel when it opens",
    ),
    Key(
        "helper",
        "options",
        OPTIONS,
        "Options that its definitions may have, besides those of every source (type, name, uuid, channel, "
        "channels, ...); any other is refused, with the nearest. Helpers written with helperd's SDK know their own.",
        otherwise="not known here: the helper sees them all, and Kismet's say nothing about one they do not know",
    ),
    Key(
        "helper",
        "silence",
        v.duration(0.5, zero=True),
        "The same as silence of a [[source]], for those of its sources that say nothing else. For programs that go on "
        "answering when they have stopped capturing, as Kismet's of 2023 do after a SIGTERM.",
        otherwise="no limit",
    ),
    Key(
        "helper",
        "on_silence",
        v.choice("restart", "alert"),
        "The same as on_silence of a [[source]], for those of its sources that say nothing else.",
        default="restart",
    ),
    Key(
        "helper",
        "exclusive",
        v.BOOLEAN,
        "Whether one source at a time may have one of its devices: while one has it open, or is opening it, another "
        "is refused (busy). With false each source has an identity of its own, made of its name.",
        otherwise="true; false for builtin:interface, builtin:pcapfile and builtin:synthetic",
    ),
)


def fill(entries: list[Entry]) -> None:
    """Give what was not written its default, which may depend on the program."""
    for entry in entries:
        match = BUILTIN.fullmatch(entry.get("command", ("",))[0])
        for word, builtin, other in (
            ("obeys_shutdown", True, False),
            ("open_timeout", 0.0 if match and match[1] in PATIENT else OPEN_S, OPEN_S),
            ("status_meaningful", True, False),
            ("exclusive", match is None or match[1] not in SHARED, True),
        ):
            entry.setdefault(word, builtin if match else other)
