"""From the text of a helpers.toml to specs, or to all of its mistakes at once.

Every value passes its key's kind, then the entries are checked against each other. Nothing here
opens a file; only the folder of builtin helpers is looked at.
"""

from __future__ import annotations

import os
import re
from typing import Any

import tomli

from helperd.config import filesink, specs
from helperd.config.keys import KEYS, TABLES, Key, Table, keys_of
from helperd.config.lines import Path, scan_lines
from helperd.config.values import BUILTIN, hint, is_loopback, kind_of, nearest
from helperd.errors import ConfigError, ConfigRefused

HELPERS_DIR = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "helpers")
SERVICES_DIR = os.path.join(os.path.dirname(HELPERS_DIR), "services")
_IMPLICIT = ("", ".frames", ".jsonl")
"""What stands before the ".sock" of the sockets that are made without any [[sink]]."""
_NO_LINK_TYPES = {
    "frames": "frames may hold several link types and are not taken apart; use format pcapng, or sources",
    "jsonl": "JSON reports have no link type; use format pcapng, or sources",
}
_TOML_PLACE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")


def builtins(folder: str | None = None) -> list[str]:
    """Return the names of the bundled helpers, or services: modules of their folder that are not private."""
    try:
        files = os.listdir(folder or HELPERS_DIR)
    except OSError:
        return []
    names = {file[:-3] for file in files if file.endswith(".py") and not file.startswith("_")}
    return sorted(names - {"sdk"})


def source_name(definition: str) -> str:
    """Return the name a source gets by itself: its interface, lower-cased, odd characters as "-"."""
    interface = definition.partition(":")[0].strip().lower()
    return re.sub(r"[^a-z0-9_-]+", "-", interface).strip("-_")[:32].rstrip("-_") or "source"


def source_type(definition: str) -> str | None:
    """Return what ``type=`` in a definition says, lower-cased; None when it is absent, empty or "auto".

    A look, not a parse: the definition's grammar belongs to the wire room. Quoted text is passed over.
    """
    options = definition.partition(":")[2]
    found = None
    for option in re.findall(r'(?:[^,"]|"[^"]*"?)+', options):
        key, _, value = option.partition("=")
        if key.strip().lower() == "type":
            found = value.replace('"', "").strip().lower()
    return None if found in (None, "", "auto") else found


def parse(text: str, file: str) -> specs.Config:
    """Check a configuration's text.

    Raises:
        ConfigRefused: every mistake, in the order of lines: bad-syntax (then alone), unknown-key,
        bad-value, missing-key,
            duplicate-name, unknown-helper, unknown-source.
    """
    try:
        document = tomli.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigRefused([_syntax(error, text, file)]) from None
    return _Check(document, text, file).run()


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


class _Check:
    """One document on its way to a Config; mistakes are collected."""

    def __init__(self, document: dict[str, Any], text: str, file: str) -> None:
        self.document = document
        self.text = text
        self.file = file
        self.mistakes: list[ConfigError] = []
        self.lines = scan_lines(text)

    def run(self) -> specs.Config:
        self._tables()
        found = {table.name: self._entries(table) for table in TABLES}
        self._helpers(found["helper"])
        self._sources(found["source"], found["helper"])
        self._sinks(found["sink"], found["source"], found["helperd"])
        self._services(found["service"], found["source"])
        self._allow(found["allow"], found["helper"])
        if self.mistakes:
            raise ConfigRefused(sorted(self.mistakes, key=lambda mistake: mistake.line))
        daemon = found["helperd"][0] if found["helperd"] else {}
        daemon.pop("line", None)
        return specs.Config(
            file=self.file,
            helperd=specs.DaemonSpec(**daemon),
            helpers=tuple(specs.HelperSpec(**entry) for entry in found["helper"]),
            sources=tuple(specs.SourceSpec(**entry) for entry in found["source"]),
            sinks=tuple(specs.SinkSpec(**entry) for entry in found["sink"]),
            allow=tuple(specs.AllowSpec(**entry) for entry in found["allow"]),
            services=tuple(specs.ServiceSpec(**entry) for entry in found["service"]),
        )

    # -- mistakes

    def _line(self, path: Path) -> int:
        """Return the line of a path, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)

    def _refuse(self, problem: str, text: str, path: Path) -> None:
        key = ""
        for part in path:
            key += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if key else part
        self.mistakes.append(ConfigError(problem, text, file=self.file, line=self._line(path), key=key))

    # -- one entry at a time

    def _tables(self) -> None:
        known = {table.name: table for table in TABLES}
        for word in self.document:
            if word in known:
                continue
            owners = [key.table for key in KEYS if key.name == word]
            if owners and not isinstance(self.document[word], (dict, list)):
                tail = f"; it belongs below {' or '.join(_header(known[owner]) for owner in owners)}"
            else:
                tail = f"; did you mean {_header(known[nearest(word, known, 0.0) or 'helperd'])}?"
            self._refuse("unknown-key", f'there is no "{word}" at the top of the file{tail}', (word,))

    def _entries(self, table: Table) -> list[dict[str, Any]]:
        content = self.document.get(table.name)
        if content is None:
            return []
        if not table.many:
            if isinstance(content, dict):
                return [self._entry(table, content, (table.name,))]
            self._refuse("bad-value", f"{table.name} must be a table, written [{table.name}]", (table.name,))
            return []
        if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
            self._refuse(
                "bad-value", f"{table.name} must be an array of tables: write [[{table.name}]]", (table.name,)
            )
            return []
        return [self._entry(table, entry, (table.name, number)) for number, entry in enumerate(content)]

    def _entry(self, table: Table, content: dict[str, Any], path: Path) -> dict[str, Any]:
        """Check one table's keys; return parsed values and defaults. A wrong value counts as absent."""
        keys = keys_of(table.name)
        found: dict[str, Any] = {"line": self._line(path)}
        for word, value in content.items():
            if word not in keys:
                self._unknown(table, word, (*path, word))
                continue
            try:
                found[word] = keys[word].kind.parse(value)
            except ValueError as error:
                self._refuse("bad-value", f"{word} {error}", (*path, word))
        for key in keys.values():
            if key.required and key.name not in content:
                self._refuse("missing-key", f'{_header(table)} needs "{key.name}": {key.meaning}', path)
            elif key.default is not None and key.name not in found:
                found[key.name] = key.kind.parse(
                    list(key.default) if isinstance(key.default, tuple) else key.default
                )
        return found

    def _unknown(self, table: Table, word: str, path: Path) -> None:
        keys = keys_of(table.name)
        near = nearest(word, keys)
        owners = [key.table for key in KEYS if key.name == word]
        if near:
            tail = f'did you mean "{near}"?'
        elif owners:
            tail = (
                f"it is a key of {' and '.join(_header(other) for other in TABLES if other.name in owners)}"
            )
        else:
            near = nearest(word, keys, 0.0) or next(iter(keys))
            tail = f'the nearest is "{near}", all of them: {", ".join(keys)}'
        self._refuse("unknown-key", f'{_header(table)} has no key "{word}"; {tail}', path)

    # -- entries against each other

    def _unique(self, table: str, entries: list[dict[str, Any]], word: str, cure: str = "") -> None:
        first: dict[str, int] = {}
        for number, entry in enumerate(entries):
            value = entry.get(word)
            if value is None:
                continue
            if value in first:
                text = f'a {table} {word} "{value}" is already on line {first[value]}{cure}'
                self._refuse("duplicate-name", text, (table, number, word))
            else:
                first[value] = self._line((table, number, word))

    def _helpers(self, entries: list[dict[str, Any]]) -> None:
        self._unique("helper", entries, "name")
        known = builtins()
        for number, entry in enumerate(entries):
            command = entry.get("command", ("",))
            match = BUILTIN.fullmatch(command[0])
            if match and match[1] not in known:
                self._refuse(
                    "unknown-helper",
                    f"there is no builtin helper {match[1]!r}{hint(match[1], known)}",
                    ("helper", number, "command"),
                )
            for word, builtin, other in (
                ("seal", 3, 1),
                ("obeys_shutdown", True, False),
                ("status_meaningful", True, False),
            ):
                entry.setdefault(word, builtin if match else other)
            self._privilege(entry, ("helper", number, "privilege"), builtin=bool(match))

    def _privilege(self, entry: dict[str, Any], path: Path, *, builtin: bool) -> None:
        privilege = entry.get("privilege", "ambient")
        if privilege == "suid" and entry.get("no_new_privs", True):
            self._refuse("bad-value", 'privilege = "suid" works only with no_new_privs = false', path)
        if builtin and privilege != "ambient":
            self._refuse(
                "bad-value", f'a builtin helper has no {privilege} privilege; leave it "ambient"', path
            )

    def _sources(self, entries: list[dict[str, Any]], helpers: list[dict[str, Any]]) -> None:
        names = [helper["name"] for helper in helpers if "name" in helper]
        served = (
            {kind: helper.get("name") for helper in reversed(helpers) for kind in helper["types"]}
            if helpers
            else {}
        )
        for number, entry in enumerate(entries):
            definition = entry.get("definition")
            if definition is None:
                continue
            if "name" not in self.document["source"][number]:
                entry["name"] = source_name(definition)
            kind = source_type(definition)
            if "helper" in entry:
                if entry["helper"] not in names:
                    text = f'no helper is called "{entry["helper"]}"{hint(entry["helper"], names)}'
                    self._refuse("unknown-helper", text, ("source", number, "helper"))
            elif kind in served:
                entry["helper"] = served[kind]
            elif kind is not None:
                text = f'no helper serves type "{kind}"{hint(kind, served)}'
                self._refuse("unknown-helper", text, ("source", number, "definition"))
        self._unique("source", entries, "name", '; give one of them another name = "..."')

    def _sinks(
        self, entries: list[dict[str, Any]], sources: list[dict[str, Any]], daemon: list[dict[str, Any]]
    ) -> None:
        names = [source["name"] for source in sources if "name" in source]
        taken = {"control.sock"}
        if not daemon or daemon[0].get("implicit_sinks", True):
            taken |= {f"all{end}.sock" for end in _IMPLICIT}
            taken |= {f"sources/{name}{end}.sock" for name in names for end in _IMPLICIT}
        for number, entry in enumerate(entries):
            self._sink(number, entry)
            path = entry.get("path")
            if path in taken:
                text = f'"{path}" is a socket that helperd makes by itself; choose another path'
                self._refuse("duplicate-name", text, ("sink", number, "path"))
            for name in entry.get("sources", ()):
                if name not in names:
                    text = f'no source is called "{name}"{hint(name, names)}'
                    self._refuse("unknown-source", text, ("sink", number, "sources"))
        self._unique("sink", entries, "path")
        self._unique("sink", [entry for entry in entries if entry.get("listen", ("", 0))[1]], "listen")

    def _sink(self, number: int, entry: dict[str, Any]) -> None:
        """Check what a sink's type asks for."""
        path = ("sink", number)
        kind = entry.get("type", "unix")
        needed, odd = ("listen", "path") if kind == "tcp" else ("path", "listen")
        written = self.document["sink"][number]
        if needed not in written:
            self._refuse("missing-key", f'a sink of type "{kind}" needs "{needed}"', path)

        def refuse(key: str, text: str) -> None:
            self._refuse("bad-value", f"{key} {text}", (*path, key))

        if needed == "path" and "path" in entry:
            filesink.check_path(entry, refuse)
        filesink.check(entry, written, refuse)
        if odd in written:
            self._refuse(
                "bad-value",
                f"belongs to another type of sink; write type = "
                f'"{"tcp" if odd == "listen" else "unix"}" or leave it out',
                (*path, odd),
            )
        if "listen" in entry and not entry["exposed"] and not is_loopback(entry["listen"][0]):
            text = (
                f"{entry['listen'][0]} can be reached from other machines, without password or encryption; "
                "write exposed = true if that is meant, or listen at 127.0.0.1"
            )
            self._refuse("bad-value", text, (*path, "listen"))
        if entry.get("dlts") and entry.get("format") in _NO_LINK_TYPES:
            self._refuse("bad-value", _NO_LINK_TYPES[entry["format"]], (*path, "dlts"))

    def _services(self, entries: list[dict[str, Any]], sources: list[dict[str, Any]]) -> None:
        self._unique("service", entries, "name")
        known = builtins(SERVICES_DIR)
        names = {source["name"]: source["line"] for source in sources if "name" in source}
        for number, entry in enumerate(entries):
            path = ("service", number)
            match = BUILTIN.fullmatch(entry.get("command", ("",))[0])
            if match and match[1] not in known:
                text = f"there is no builtin service {match[1]!r}{hint(match[1], known)}"
                self._refuse("bad-value", text, (*path, "command"))
            if entry.get("name") in names:
                text = f'a source is called "{entry["name"]}" already, on line {names[entry["name"]]}'
                self._refuse("duplicate-name", text, (*path, "name"))
            if entry.get("user") in {"root", "0"}:
                self._refuse(
                    "bad-value", "user must not be root: a service has no privilege", (*path, "user")
                )

    def _allow(self, entries: list[dict[str, Any]], helpers: list[dict[str, Any]]) -> None:
        names = [helper["name"] for helper in helpers if "name" in helper]
        for number, entry in enumerate(entries):
            written = {word for word in ("uid", "group") if word in self.document["allow"][number]}
            if len(written) != 1:
                problem, text = ("bad-value", "not both") if written else ("missing-key", "one of them")
                self._refuse(problem, f"[[allow]] needs uid or group, {text}", ("allow", number))
            for name in entry.get("helpers", ()):
                if name not in names:
                    text = f'no helper is called "{name}"{hint(name, names)}'
                    self._refuse("unknown-helper", text, ("allow", number, "helpers"))


def _header(table: Table) -> str:
    return f"[[{table.name}]]" if table.many else f"[{table.name}]"


__all__ = ["Key", "builtins", "kind_of", "parse", "source_name", "source_type"]
