"""From the texts of a configuration, helpers.toml and its drop-ins, to specs, or to all mistakes at once.

Every value passes its key's kind, then the entries are checked against each other. Nothing here
opens a file; only the folder of builtin helpers, and whether an offered program exists, is looked at.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import tomli

from helperd.config import specs
from helperd.config.keys import ELSEWHERE, KEYS, TABLES, Key, Table, keys_of
from helperd.config.lines import Path, scan_lines
from helperd.config.values import BUILTIN, hint, kind_of, nearest
from helperd.errors import ConfigError, ConfigRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from helperd.config.sources import SourceSpec

HELPERS_DIR = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "helpers")
SERVICES_DIR = os.path.join(os.path.dirname(HELPERS_DIR), "services")
KEEPING = frozenset({"pcapfile", "pipe", "extcap", "jsonlines"})
"""Builtin helpers that open files which users name, or start programs that do."""
ASKED = ("list_timeout", "probe_timeout")
ASK_S = 2.0
"""Seconds for a list or a probe, as under the newest of Kismet's servers."""
TOOL_S = 10.0
"""Seconds where a tool is asked that was made for Wireshark, which waits for as long as it takes."""
_TOML_PLACE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")


def builtins(folder: str | None = None) -> list[str]:
    """Return the names of the bundled helpers, or services: modules of their folder that are not private."""
    try:
        files = os.listdir(folder or HELPERS_DIR)
    except OSError:
        return []
    names = {file[:-3] for file in files if file.endswith(".py") and not file.startswith("_")}
    return sorted(names - {"sdk"})


class Document:
    """One file of a configuration, read as TOML.

    Raises:
        ConfigRefused: "bad-syntax".
    """

    def __init__(self, text: str, file: str) -> None:
        try:
            self.content: dict[str, Any] = tomli.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigRefused([_syntax(error, text, file)]) from None
        self.file = file
        self.lines = scan_lines(text)

    def line(self, path: Path) -> int:
        """Return the line of a path, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)


class Place(NamedTuple):
    """Where an entry or a key stands."""

    document: Document
    path: Path

    def __truediv__(self, word: str | int) -> Place:
        """The place of a key, or of an entry, in this one."""
        return Place(self.document, (*self.path, word))

    @property
    def line(self) -> int:
        """Its line."""
        return self.document.line(self.path)

    def seen_from(self, other: Place) -> str:
        """What to call it in a mistake that stands elsewhere."""
        here = self.document is other.document
        return f"on line {self.line}" if here else f"in {self.document.file}, line {self.line}"


Entry = dict[str, Any]
"""The parsed values of one table, its defaults, and "place"."""


def _syntax(error: Exception, text: str, file: str) -> ConfigError:
    words = str(error) or "nested too deeply"
    place = _TOML_PLACE.search(words)
    line = text.count("\n") + 1
    if isinstance(error, RecursionError) or not place:
        line = 0
    elif place[1]:
        line = int(place[1])
    words = _TOML_PLACE.sub("", words)
    return ConfigError("bad-syntax", f"not valid TOML: {words}", file=file, line=line)


class Check:
    """Documents on their way to a Config without sources, and of sinks with ``file_group`` alone; collects mistakes.

    The documents are a main file, then its drop-ins in the order in which they count.
    """

    keys = KEYS
    whole = False

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = documents
        self.mistakes: list[tuple[int, ConfigError]] = []

    def run(self) -> specs.Config:
        """Check everything.

        Raises:
            ConfigRefused: every mistake, in the order of files and lines: unknown-key, bad-value, missing-key,
                duplicate-name, unknown-helper, unknown-source.
        """
        found: dict[str, list[Entry]] = {table.name: [] for table in TABLES}
        for document in self.documents:
            self._tables(document)
            for table in TABLES:
                if table.name != "source" or self.whole:
                    found[table.name] += self._entries(table, document)
        daemon = self._daemon(found["helperd"])
        found["helper"] = _taken(found["helper"])
        self._helpers(found["helper"])
        self.more(found, daemon)
        self._services(found["service"], found["source"])
        self._allow(found["allow"], found["helper"])
        if self.mistakes:
            self.mistakes.sort(key=lambda mistake: (mistake[0], mistake[1].line))
            raise ConfigRefused([mistake for _, mistake in self.mistakes])
        return specs.Config(
            file=self.documents[0].file,
            files=tuple(document.file for document in self.documents),
            helperd=specs.DaemonSpec(**daemon),
            helpers=tuple(specs.HelperSpec(**fields_of(entry)) for entry in found["helper"]),
            sources=self.sources(found["source"]),
            sinks=self.sinks(found["sink"]),
            allow=tuple(specs.AllowSpec(**fields_of(entry)) for entry in found["allow"]),
            services=tuple(specs.ServiceSpec(**fields_of(entry)) for entry in found["service"]),
        )

    # -- mistakes

    def refuse(self, problem: str, text: str, place: Place) -> None:
        """Note a mistake."""
        key = ""
        for part in place.path:
            key += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if key else part
        number = self.documents.index(place.document)
        mistake = ConfigError(problem, text, file=place.document.file, line=place.line, key=key)
        self.mistakes.append((number, mistake))

    # -- one entry at a time

    def _tables(self, document: Document) -> None:
        known = {table.name: table for table in TABLES}
        for word in document.content:
            if word in known:
                continue
            owners = [key.table for key in self.keys if key.name == word]
            if owners and not isinstance(document.content[word], (dict, list)):
                tail = f"; it belongs below {' or '.join(_header(known[owner]) for owner in owners)}"
            else:
                tail = f"; did you mean {_header(known[nearest(word, known, 0.0) or 'helperd'])}?"
            text = f'there is no "{word}" at the top of the file{tail}'
            self.refuse("unknown-key", text, Place(document, (word,)))

    def _entries(self, table: Table, document: Document) -> list[Entry]:
        content = document.content.get(table.name)
        place = Place(document, (table.name,))
        if content is None:
            return []
        if not table.many:
            if isinstance(content, dict):
                return [self._entry(table, content, place)]
            self.refuse("bad-value", f"{table.name} must be a table, written [{table.name}]", place)
            return []
        if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
            self.refuse(
                "bad-value", f"{table.name} must be an array of tables: write [[{table.name}]]", place
            )
            return []
        return [self._entry(table, entry, place / number) for number, entry in enumerate(content)]

    def _entry(self, table: Table, content: dict[str, Any], place: Place) -> Entry:
        """Check one table's keys; return parsed values and defaults. A wrong value counts as absent."""
        keys = keys_of(table.name, self.keys)
        found: Entry = {"place": place, "written": frozenset(content)}
        for word, value in content.items():
            if word not in keys:
                if self.whole or (
                    table.name != "sink" and not (table.name in {"helper", "helperd"} and word in ELSEWHERE)
                ):
                    self._unknown(table, word, place / word)
                continue
            try:
                found[word] = keys[word].kind.parse(value)
            except ValueError as error:
                self.refuse("bad-value", f"{word} {error}", place / word)
        for key in keys.values():
            if key.required and key.name not in content:
                self.refuse("missing-key", f'{_header(table)} needs "{key.name}": {key.meaning}', place)
            elif key.default is not None and key.name not in found:
                found[key.name] = key.kind.parse(
                    list(key.default) if isinstance(key.default, tuple) else key.default
                )
        return found

    def _daemon(self, entries: list[Entry]) -> dict[str, Any]:
        """Put the [helperd] tables of all files together: each key stands in one of them."""
        found: dict[str, Any] = {}
        first: dict[str, Place] = {}
        for entry in entries:
            place: Place = entry["place"]
            for word, value in fields_of(entry).items():
                if word not in entry["written"]:
                    found.setdefault(word, value)
                    continue
                if word == "include" and place.document is not self.documents[0]:
                    text = f"include belongs to the main file, {self.documents[0].file}"
                    self.refuse("bad-value", text, place / word)
                elif word in first:
                    text = f"[helperd] has {word} already {first[word].seen_from(place)}"
                    self.refuse("duplicate-name", text, place / word)
                first.setdefault(word, place / word)
                found[word] = value
        found.pop("line", None)
        found.pop("file", None)
        found["places"] = {word: (place.document.file, place.line) for word, place in first.items()}
        return found

    def _unknown(self, table: Table, word: str, place: Place) -> None:
        keys = keys_of(table.name, self.keys)
        near = nearest(word, keys)
        owners = [key.table for key in self.keys if key.name == word]
        if near:
            tail = f'did you mean "{near}"?'
        elif owners:
            tail = (
                f"it is a key of {' and '.join(_header(other) for other in TABLES if other.name in owners)}"
            )
        else:
            near = nearest(word, keys, 0.0) or next(iter(keys))
            tail = f'the nearest is "{near}", all of them: {", ".join(keys)}'
        self.refuse("unknown-key", f'{_header(table)} has no key "{word}"; {tail}', place)

    # -- entries against each other

    def unique(self, table: str, entries: list[Entry], word: str, cure: str = "") -> None:
        """Refuse a value that two entries have."""
        first: dict[str, Place] = {}
        for entry in entries:
            value, place = entry.get(word), entry["place"] / word
            if value is None:
                continue
            if value in first:
                text = f'a {table} {word} "{value}" is already {first[value].seen_from(place)}{cure}'
                self.refuse("duplicate-name", text, place)
            else:
                first[value] = place

    def _helpers(self, entries: list[Entry]) -> None:
        self.unique("helper", entries, "name")
        known = builtins()
        for entry in entries:
            command = entry.get("command", ("",))
            match = BUILTIN.fullmatch(command[0])
            if match and match[1] not in known:
                self.refuse(
                    "unknown-helper",
                    f"there is no builtin helper {match[1]!r}{hint(match[1], known)}",
                    entry["place"] / "command",
                )
            for word, builtin, other in (
                ("seal", 3, 1),
                *((word, TOOL_S if match and match[1] == "extcap" else ASK_S, ASK_S) for word in ASKED),
                ("private_tmp", match is None or match[1] not in KEEPING, True),
            ):
                entry.setdefault(word, builtin if match else other)
            entry["present"] = is_present(entry)
            self._privilege(entry, entry["place"] / "privilege", builtin=bool(match))

    def _privilege(self, entry: Entry, place: Place, *, builtin: bool) -> None:
        privilege = entry.get("privilege", "ambient")
        if privilege == "suid" and entry.get("no_new_privs", True):
            self.refuse("bad-value", 'privilege = "suid" works only with no_new_privs = false', place)
        if builtin and privilege != "ambient":
            self.refuse(
                "bad-value", f'a builtin helper has no {privilege} privilege; leave it "ambient"', place
            )

    def more(self, found: dict[str, list[Entry]], daemon: dict[str, Any]) -> None:
        """Check [[source]] and [[sink]], of which nothing is looked at here: ``whole.Whole``."""

    def sinks(self, entries: list[Entry]) -> tuple[Any, ...]:
        """What [[sink]] says: here the group of its files."""
        return tuple(specs.FileGroup(**fields_of(entry)) for entry in entries)

    def sources(self, _: list[Entry]) -> tuple[SourceSpec, ...]:
        """What [[source]] says: nothing here."""
        return ()

    def _services(self, entries: list[Entry], sources: list[Entry]) -> None:
        self.unique("service", entries, "name")
        known = builtins(SERVICES_DIR)
        names = {source["name"]: source["place"] for source in sources if "name" in source}
        for entry in entries:
            place: Place = entry["place"]
            match = BUILTIN.fullmatch(entry.get("command", ("",))[0])
            if match and match[1] not in known:
                text = f"there is no builtin service {match[1]!r}{hint(match[1], known)}"
                self.refuse("bad-value", text, place / "command")
            if entry.get("name") in names:
                text = f'a source is called "{entry["name"]}" already {names[entry["name"]].seen_from(place)}'
                self.refuse("duplicate-name", text, place / "name")
            if entry.get("user") in {"root", "0"}:
                text = "user must not be root: a service has no privilege"
                self.refuse("bad-value", text, place / "user")

    def _allow(self, entries: list[Entry], helpers: list[Entry]) -> None:
        names = [helper["name"] for helper in helpers if "name" in helper]
        for entry in entries:
            written = {"uid", "group"} & entry["written"]
            if len(written) != 1:
                problem, text = ("bad-value", "not both") if written else ("missing-key", "one of them")
                self.refuse(problem, f"[[allow]] needs uid or group, {text}", entry["place"])
            for name in entry.get("helpers", ()):
                if name not in names:
                    text = f'no helper is called "{name}"{hint(name, names)}'
                    self.refuse("unknown-helper", text, entry["place"] / "helpers")


def fields_of(entry: Entry) -> dict[str, Any]:
    """An entry as the fields of its spec."""
    place: Place = entry["place"]
    values = {word: value for word, value in entry.items() if word not in {"place", "written"}}
    return values | {"line": place.line, "file": place.document.file}


def is_present(helper: Entry) -> bool:
    """Whether a helper counts: one with when = "present" does while its program is there."""
    if helper.get("when") != "present":
        return True
    words = helper.get("command", ())
    program = next((word for word in words if word.startswith("/")), "")
    return not program or os.path.exists(program)


def _taken(helpers: list[Entry]) -> list[Entry]:
    """Leave out what is offered (when = "present") under a name that is taken in another file."""
    files: dict[str, set[str]] = {}
    firm = {helper.get("name") for helper in helpers if helper.get("when") != "present"}
    found = []
    for helper in helpers:
        name, file = helper.get("name", ""), helper["place"].document.file
        others = files.setdefault(name, set())
        if helper.get("when") != "present" or (name not in firm and not others - {file}):
            found.append(helper)
        others.add(file)
    return found


def _header(table: Table) -> str:
    return f"[[{table.name}]]" if table.many else f"[{table.name}]"


__all__ = ["Check", "Document", "Entry", "Key", "builtins", "is_present", "kind_of"]
