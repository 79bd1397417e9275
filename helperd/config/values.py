"""What a value in the configuration may look like: one ``Kind`` per sort of value.

A kind has words for people and a function from the value tomli returns to the value a spec holds; the
function raises ``ValueError`` with the sentence that follows the key's name ("must be ...").
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from helperd.config.capabilities import CAPABILITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
BUILTIN = re.compile(r"builtin:([a-z0-9][a-z0-9_]*)")
LIMITS = ("as", "data", "fsize", "memlock", "nofile", "nproc", "stack")
SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)")
_SIZE = re.compile(r"(\d{1,15})(B|KiB|MiB|GiB|kB|MB|GB)")
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,31}|\d{1,10}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
MAX_ID = 2**32 - 2


class Kind(NamedTuple):
    """One sort of value.

    Attributes:
        words: what it looks like, for the manual, e.g. ``duration``.
        parse: from tomli's value to the spec's; raises ValueError.
    """

    words: str
    parse: Callable[[object], object]


def nearest(word: str, valid: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the valid word most like ``word``, or "" when none is like enough (0 = always one)."""
    import difflib  # only a mistake needs it; importing it costs more than the rest of this room

    found = difflib.get_close_matches(word, list(valid), 1, cutoff)
    return found[0] if found else ""


def hint(word: str, valid: Iterable[str]) -> str:
    """Return ', did you mean "x"?' or, when nothing is near, the whole list of what is valid."""
    words = list(valid)
    near = nearest(word, words)
    if near:
        return f'; did you mean "{near}"?'
    return f"; valid: {', '.join(words)}" if words else ""


def kind_of(value: object) -> str:
    """Name the TOML type of a value, for messages."""
    for python, toml in ((bool, "a boolean"), (int, "an integer"), (float, "a float"), (str, "a string")):
        if isinstance(value, python):
            return toml
    if isinstance(value, list):
        return "an array"
    return "a table" if isinstance(value, dict) else "a date or time"


def text_of(value: object, what: str) -> str:
    """Return a string; ``what`` it must be is said otherwise."""
    if not isinstance(value, str):
        msg = f"must be {what}, not {kind_of(value)}"
        raise ValueError(msg)
    return value


def texts(value: object, what: str) -> list[str]:
    """Return several strings."""
    if not isinstance(value, list):
        msg = f"must be an array of {what}, not {kind_of(value)}"
        raise ValueError(msg)
    seen: list[str] = []
    for position, item in enumerate(value, 1):
        if not isinstance(item, str):
            msg = f"must be an array of {what}; entry {position} is {kind_of(item)}"
            raise ValueError(msg)
        seen.append(item)
    return seen


def one_line(value: object, what: str) -> str:
    """Return a non-empty string without control characters."""
    text = text_of(value, what)
    if not text:
        msg = f"must be {what}, not empty"
        raise ValueError(msg)
    if _CONTROL.search(text):
        msg = f"must be {what} without control characters, not {text!r}"
        raise ValueError(msg)
    return text


def boolean(value: object) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        msg = f"must be true or false, not {kind_of(value)}"
        raise ValueError(msg)
    return value


def integer(low: int, high: int) -> Kind:
    """Return the kind of integers from ``low`` to ``high``."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            msg = f"must be an integer from {low} to {high}, not {kind_of(value)}"
            raise ValueError(msg)
        if not low <= value <= high:
            msg = f"must be from {low} to {high}, not {value}"
            raise ValueError(msg)
        return value

    return Kind(f"integer, {low} to {high}", parse)


def name(value: object) -> str:
    """Return a name that may become part of a socket's file name."""
    text = text_of(value, "a name")
    if not NAME.fullmatch(text):
        msg = f"must be a name: 1 to 32 characters a-z 0-9 _ -, a letter or digit first; not {text!r}"
        raise ValueError(msg)
    return text


def names(value: object) -> tuple[str, ...]:
    """Return several names, each once."""
    return tuple(dict.fromkeys(name(item) for item in texts(value, "names")))


def account(value: object) -> str:
    """Return the name, or the number as a string, of a user or group."""
    text = text_of(value, "a user or group name")
    if not _ACCOUNT.fullmatch(text) or (text.isdigit() and int(text) > MAX_ID):
        msg = f"must be a user or group name (or its number as a string), not {text!r}"
        raise ValueError(msg)
    return text


def accounts(value: object) -> tuple[str, ...]:
    """Return several group names."""
    return tuple(dict.fromkeys(account(item) for item in texts(value, "group names")))


def choice(*words: str) -> Kind:
    """Return the kind of one word out of several."""

    def parse(value: object) -> str:
        text = text_of(value, "one of " + ", ".join(f'"{word}"' for word in words))
        if text not in words:
            msg = f"must be one of {', '.join(words)}, not {text!r}" + (
                hint(text, words) if nearest(text, words) else ""
            )
            raise ValueError(msg)
        return text

    return Kind(" or ".join(f'"{word}"' for word in words), parse)


def duration(low: float = 0.0, high: float = 30 * 86400.0, *, zero: bool = False) -> Kind:
    """Return the kind of lengths of time such as "30s", "250ms", "2m", "1h"; parsed to seconds.

    Args:
        low: the least, in seconds.
        high: the most.
        zero: whether "0s" is one too, though below ``low``: it stands for none.
    """

    def parse(value: object) -> float:
        text = text_of(value, 'a duration such as "30s", "250ms" or "2m"')
        found = _DURATION.fullmatch(text)
        if not found:
            msg = f'must be a duration such as "30s", "250ms" or "2m", not {text!r}'
            raise ValueError(msg)
        seconds = float(found[1]) * SECONDS[found[2]]
        if not low <= seconds <= high and not (zero and seconds == 0):
            msg = f"must be {'0s, or ' if zero else ''}from {low:g}s to {high:g}s, not {text!r}"
            raise ValueError(msg)
        return seconds

    return Kind("duration", parse)


def _size(value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        msg = f'must be a size such as "4MiB", or a number of bytes, not {kind_of(value)}'
        raise ValueError(msg)
    if isinstance(value, str):
        found = _SIZE.fullmatch(value)
        if not found:
            msg = f'must be a size such as "4MiB" or "64KiB" ({", ".join(SIZES)}), not {value!r}'
            raise ValueError(msg)
        value = int(found[1]) * SIZES[found[2]]
    if not low <= value <= high:
        msg = f"must be from {low} to {high} bytes, not {value}"
        raise ValueError(msg)
    return value


def size(low: int, high: int) -> Kind:
    """Return the kind of sizes such as "4MiB"; parsed to bytes."""
    return Kind("size", lambda value: _size(value, low, high))


def path(value: object) -> str:
    """Return an absolute path."""
    text = one_line(value, "an absolute path")
    if not text.startswith("/"):
        msg = f"must be an absolute path, not {text!r}"
        raise ValueError(msg)
    if ".." in text.split("/"):
        msg = f'must be a path without "..", not {text!r}'
        raise ValueError(msg)
    return text


def paths(value: object) -> tuple[str, ...]:
    """Return several absolute paths."""
    return tuple(path(item) for item in texts(value, "absolute paths"))


def includes(value: object) -> tuple[str, ...]:
    """Return several paths: absolute, or relative to the file that they stand in."""
    return tuple(one_line(item, "an array of directories") for item in texts(value, "directories"))


def command(value: object) -> tuple[str, ...]:
    """Return an argument vector: absolute path or ``builtin:NAME`` first."""
    words = texts(value, "arguments")
    if not words:
        msg = "must name a program: an absolute path or builtin:NAME, then its arguments"
        raise ValueError(msg)
    for word in words:
        if "\0" in word:
            msg = f"has an argument with a NUL character: {word!r}"
            raise ValueError(msg)
    first = words[0]
    if not BUILTIN.fullmatch(first) and not first.startswith("/"):
        msg = f"must begin with an absolute path or builtin:NAME, not {first!r}"
        raise ValueError(msg)
    if first.startswith("/"):
        path(first)
    return tuple(words)


def capabilities(value: object) -> tuple[str, ...]:
    """Return capability names in the kernel's order, each once."""
    found = set()
    for word in texts(value, "capability names"):
        if word not in CAPABILITIES:
            plain = word.lower().removeprefix("cap_")
            near = plain if plain in CAPABILITIES else nearest(plain, CAPABILITIES)
            tail = (
                f'; did you mean "{near}"?'
                if near
                else "; names are as in capabilities(7), lower case, no prefix"
            )
            msg = f"has no capability {word!r}{tail}"
            raise ValueError(msg)
        found.add(word)
    return tuple(sorted(found, key=CAPABILITIES.__getitem__))


def uid_rule(value: object) -> str | int:
    """Return "pool", "shared", or a uid."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 < value <= MAX_ID:
            msg = f"must be a uid from 1 to {MAX_ID}, not {value}: a helper with uid 0 owns root's files"
            raise ValueError(msg)
        return value
    if value not in ("pool", "shared"):
        msg = f'must be "pool", "shared" or a number, not {value!r}'
        raise ValueError(msg)
    return str(value)


def uid_range(value: object) -> tuple[int, int]:
    """Return the first and the last of some uids: "60800-61183"."""
    found = re.fullmatch(r"(\d{1,10})-(\d{1,10})", text_of(value, 'uids such as "60800-61183"'))
    if not found:
        msg = f'must be the first and the last of some uids, such as "60800-61183", not {value!r}'
        raise ValueError(msg)
    first, last = int(found[1]), int(found[2])
    if not (first > 0 and first + 23 <= last <= min(first + 0xFFFF, MAX_ID)) or first <= 0xFFFF <= last + 1:
        msg = f"must be 24 to 65536 uids from 1 to {MAX_ID} without nobody's, 65534 and 65535; not {value!r}"
        raise ValueError(msg)
    return first, last


def uid(value: object) -> int:
    """Return a uid."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_ID:
        msg = f"must be a uid from 0 to {MAX_ID}, not {value!r}"
        raise ValueError(msg)
    return value


def environment(value: object) -> tuple[tuple[str, str], ...]:
    """Return variables, sorted by name."""
    if not isinstance(value, dict):
        msg = f'must be a table such as {{ KISMET_ETC = "/etc/kismet" }}, not {kind_of(value)}'
        raise ValueError(msg)
    for variable, content in value.items():
        if not _VARIABLE.fullmatch(variable):
            msg = f"has {variable!r}, which is no name of a variable"
            raise ValueError(msg)
        if variable.startswith("HELPERD_"):
            msg = f"has {variable}: names that begin with HELPERD_ are set by helperd alone"
            raise ValueError(msg)
        if not isinstance(content, str) or "\0" in content:
            msg = f"has {variable}, whose value must be a string without NUL"
            raise ValueError(msg)
    return tuple(sorted(value.items()))


def limits(value: object) -> tuple[tuple[str, int], ...]:
    """Return resource limits as (name, number), sorted by name; sizes in bytes, the others counted."""
    if not isinstance(value, dict):
        msg = f'must be a table such as {{ nofile = 64, as = "256MiB" }}, not {kind_of(value)}'
        raise ValueError(msg)
    found = []
    for limit, content in value.items():
        if limit not in LIMITS:
            msg = f"has no limit {limit!r}{hint(limit, LIMITS)}"
            raise ValueError(msg)
        try:
            number = (
                integer(0, 1 << 20).parse(content) if limit.startswith("n") else _size(content, 0, 1 << 50)
            )
        except ValueError as error:
            msg = f"has {limit}, which {error}"
            raise ValueError(msg) from None
        found.append((limit, int(str(number))))
    return tuple(sorted(found))


BOOLEAN = Kind("true or false", boolean)
NAME_KIND = Kind("name", name)
NAMES = Kind("array of names", names)
ACCOUNT = Kind("user or group name", account)
ACCOUNTS = Kind("array of group names", accounts)
PATH = Kind("absolute path", path)
PATHS = Kind("array of absolute paths", paths)
INCLUDES = Kind("array of paths", includes)
COMMAND = Kind("array of strings", command)
CAPABILITY_NAMES = Kind("array of capability names", capabilities)
UID_RULE = Kind('"pool", "shared" or a uid', uid_rule)
UID = Kind("uid", uid)
UID_RANGE = Kind("range of uids", uid_range)
ENVIRONMENT = Kind("table of strings", environment)
RESOURCE_LIMITS = Kind("table of limits", limits)
