"""[[source]]: its keys, and its check. What to capture from is not the launcher's business: it does not load this."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from helperd.config import values as v
from helperd.config.check import is_present
from helperd.config.keys import Key
from helperd.config.values import Kind, hint, one_line

if TYPE_CHECKING:
    from helperd.config.check import Check, Entry

_QUOTED = re.compile(r'\s*"((?:[^"]|"")*)"\s*(?::|$)')


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """``[[source]]``.

    Attributes:
        definition: as written; nobody has parsed it.
        helper: name of the helper that opens it; None: ask them all.
        period: seconds.
        silence: seconds without a packet; 0: no limit; None: its helper's.
        on_silence: None: its helper's.
    """

    definition: str
    name: str
    helper: str | None = None
    start: str = "boot"
    restart: str = "permanent"
    give_up: bool = False
    intensity: int = 5
    period: float = 60.0
    silence: float | None = None
    on_silence: str | None = None
    hop: bool = True
    line: int = field(default=0, compare=False, repr=False)
    file: str = field(default="", compare=False, repr=False)


def definition(value: object) -> str:
    """Return a source definition; only what can be seen without parsing it is checked."""
    text = one_line(value, 'a definition such as "wlan0:type=linuxwifi"')
    if not text.partition(":")[0].strip():
        msg = f'must begin with an interface, as in "wlan0:type=linuxwifi", not {text!r}'
        raise ValueError(msg)
    return text


DEFINITION = Kind("definition", definition)
SOURCE: tuple[Key, ...] = (
    Key(
        "source",
        "definition",
        DEFINITION,
        'interface:key=value,... such as "wlan0:type=linuxwifi,channels=\\"1,6,11\\"". The interface '
        "ends at the first colon, unless it stands in quotes.",
        required=True,
        needs_process=True,
    ),
    Key(
        "source",
        "name",
        v.NAME_KIND,
        "What the source is called in status and in its socket's path: 1 to 32 characters a-z 0-9 _ -.",
        otherwise="the definition's name=, else made from its interface",
    ),
    Key(
        "source",
        "helper",
        v.NAME_KIND,
        "The helper that opens it, by name.",
        needs_process=True,
        otherwise="the one that serves the definition's type=, else every helper is asked",
    ),
    Key(
        "source",
        "start",
        v.choice("boot", "first-consumer", "manual"),
        "When it is started: with helperd, with the first consumer that would get its packets, or by "
        "an order alone.",
        default="boot",
    ),
    Key(
        "source",
        "restart",
        v.choice("permanent", "transient", "temporary"),
        "When it is started again. permanent: after every end; transient: after every end but "
        "success; temporary: never. A damaged file is read once, and again when it has changed.",
        default="permanent",
    ),
    Key(
        "source",
        "give_up",
        v.BOOLEAN,
        "Give up after intensity restarts within period. Otherwise it is tried for ever, ever more slowly.",
        default=False,
    ),
    Key(
        "source",
        "intensity",
        v.integer(1, 1000),
        "Restarts within period that give_up tolerates.",
        default=5,
    ),
    Key(
        "source",
        "period",
        v.duration(1.0),
        "The time in which give_up counts.",
        default="60s",
    ),
    Key(
        "source",
        "silence",
        v.duration(0.5, zero=True),
        "Longest time without a packet, although the helper answers. 0s: no limit.",
        otherwise="its helper's",
    ),
    Key(
        "source",
        "on_silence",
        v.choice("restart", "alert"),
        "What happens after silence: the helper is restarted, or only a message is published.",
        otherwise="its helper's",
    ),
    Key(
        "source",
        "hop",
        v.BOOLEAN,
        "Whether helperd lets it hop: over the channels of its definition, else all that its helper names, shared "
        "with the other sources of its type. A definition with channel= alone, or channel_hop=false, does not hop "
        "either.",
        default=True,
    ),
)


def source_name(definition: str) -> str:
    """Return the name a source gets by itself: its ``name=``, else its interface; odd characters as "-"."""
    interface, options = _look(definition)
    return _as_name(options.get("name", "")) or _as_name(interface) or "source"


def _as_name(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:32].rstrip("-_")


def source_type(definition: str) -> str | None:
    """Return what ``type=`` in a definition says, lower-cased; None when it is absent, empty or "auto"."""
    found = _look(definition)[1].get("type", "").lower()
    return None if found in ("", "auto") else found


def _look(definition: str) -> tuple[str, dict[str, str]]:
    """Return interface and options of a definition: a look that refuses nothing, the parse is the wire room's."""
    quoted = _QUOTED.match(definition)
    if quoted:
        interface, rest = quoted[1].replace('""', '"'), definition[quoted.end() :]
    else:
        interface, _, rest = definition.partition(":")
    options: dict[str, str] = {}
    key = ""
    for part in re.findall(r'(?:[^,"]|"[^"]*"?)+', rest):
        name, equals, value = part.partition("=")
        if equals:
            key = name.strip().lower()
            options[key] = value.replace('"', "").strip()
        elif key and part.strip():
            options[key] += "," + part.replace('"', "").strip()
    return interface.strip() if not quoted else interface, options


def check(whole: Check, entries: list[Entry], helpers: list[Entry]) -> None:
    """Check [[source]] against the helpers, and give each its name and the helper that opens it."""
    names = [helper["name"] for helper in helpers if "name" in helper]
    best = sorted(helpers, key=lambda helper: not is_present(helper))  # the first that serves a type
    served = {kind: helper.get("name") for helper in reversed(best) for kind in helper["types"]}
    for entry in entries:
        definition = entry.get("definition")
        if definition is None:
            continue
        if "name" not in entry["written"]:
            entry["name"] = source_name(definition)
        kind = source_type(definition)
        if "helper" in entry:
            if entry["helper"] not in names:
                text = f'no helper is called "{entry["helper"]}"{hint(entry["helper"], names)}'
                whole.refuse("unknown-helper", text, entry["place"] / "helper")
        elif kind in served:
            entry["helper"] = served[kind]
        elif kind is not None:
            text = f'no helper serves type "{kind}"{hint(kind, served)}'
            whole.refuse("unknown-helper", text, entry["place"] / "definition")
    whole.unique("source", entries, "name", '; give one of them another name = "..."')
