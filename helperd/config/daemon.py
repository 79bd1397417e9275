"""[helperd]: the keys that say how the daemon serves, and what it says. The launcher does not load this: what it starts
does not depend on them.
"""

from __future__ import annotations

from helperd.config import sinks
from helperd.config import values as v
from helperd.config.keys import Key

DAEMON: tuple[Key, ...] = (
    Key(
        "helperd",
        "socket_mode",
        sinks.MODE,
        "File mode of consumer sockets and of control.sock.",
        default="0660",
    ),
    Key(
        "helperd",
        "clients_per_user",
        v.integer(1, 1024),
        "How many readers of packets, and how many connections to control.sock, one user may have at once; over TCP, "
        "one address. Root and the supervisor's own user have no such limit.",
        default=128,
    ),
    Key(
        "helperd",
        "implicit_sinks",
        v.BOOLEAN,
        "Make all.sock and one sources/NAME.sock per source, with NAME.frames.sock and NAME.jsonl.sock beside each, "
        "without any [[sink]].",
        default=True,
    ),
    Key(
        "helperd",
        "log_format",
        v.choice("auto", "text", "json", "journal"),
        "Form of the log on standard error. auto: text on a terminal, journal fields under systemd, "
        "else JSON lines.",
        default="auto",
    ),
    Key(
        "helperd",
        "log_level",
        v.choice("debug", "info", "warning", "error"),
        "The least severe line that is logged.",
        default="info",
    ),
)
