"""A driver's options, and the definition that a filled-in dialog makes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol

from helperd.errors import HelperdError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from helperd.extcap.words import Place

_CHANNEL = "one channel to stay on"


class Answers(Protocol):
    """A daemon's client, or what answers in its place."""

    def call(self, method: str, /, **parameters: Any) -> dict[str, Any]:
        """Ask once."""


class Option(NamedTuple):
    """One field of the dialog."""

    name: str
    meaning: str


def options_of(client: Answers, place: Place) -> list[Option]:
    """What can be chosen for an interface; nothing for a source that cannot be tuned, and for all sources.

    Raises:
        HelperdError: the daemon's answer.
    """
    if place.helper:
        helper = helper_of(client, place)
        names = _meanings(helper)
        channel = [Option("channel", _CHANNEL)] if helper["tunes"] is not False else []
        return [*channel, *(Option(name, meaning) for name, meaning in names.items() if name != "channel")]
    if place.source and client.call("GetSource", source=place.source)["source"].get("channels"):
        return [Option("channel", f"{_CHANNEL}; for all who read this source")]
    return []


def channels(client: Answers, place: Place, options: Mapping[str, str]) -> list[str]:
    """What an interface can be tuned to; nothing when its helper does not say."""
    try:
        if place.source:
            found = client.call("GetSource", source=place.source)["source"].get("channels")
        else:
            found = client.call("Probe", definition=definition_of(client, place, options, ""))["channels"]
    except HelperdError:
        return []
    return list(found or [])


def helper_of(client: Answers, place: Place) -> dict[str, Any]:
    """The helper of an interface, as the daemon describes it.

    Raises:
        UnavailableError: "unknown-helper".
    """
    for helper in client.call("ListHelpers")["helpers"]:
        if helper["name"] == place.helper:
            return dict(helper)
    raise UnavailableError("unknown-helper", f"the daemon has no helper {place.helper!r} any more")


def definition_of(client: Answers, place: Place, options: Mapping[str, str], filter_text: str) -> str:
    """The definition of a device with these options.

    Raises:
        UsageError: "not-supported": a filter where none can be; "bad-definition".
        HelperdError: the daemon's answer.
    """
    from helperd.wire.definition import SourceDefinition

    if not place.helper:
        raise UsageError(
            "not-supported",
            "a source is shared with its other readers and cannot have a capture filter; use a display filter",
        )
    chosen = dict(options)
    if filter_text:
        if "filter" not in _meanings(helper_of(client, place)):
            raise UsageError(
                "not-supported",
                f"{place.helper} cannot filter; remove the capture filter, use a display filter",
            )
        chosen["filter"] = filter_text
    text = _device(client, place)["definition"]
    if not text:
        raise UsageError("bad-definition", f"{place.device!r} cannot be written in a definition")
    base = SourceDefinition.parse(text)
    return base.with_options(**chosen).text()


def _device(client: Answers, place: Place) -> dict[str, Any]:
    for device in client.call("ListDevices")["devices"]:
        if (device["helper"], device["interface"]) == (place.helper, place.device):
            return dict(device)
    raise UnavailableError("device-gone", f"{place.helper} does not list {place.device!r} any more")


def _meanings(helper: Mapping[str, Any]) -> Mapping[str, str]:
    """A helper's options by name: our own helpers say what they mean, of others the configuration knows the names."""
    builtin = helper["builtin"]
    if not builtin:
        return dict.fromkeys(helper["options"] or [], f"option of {helper['name']}'s definitions")
    own: Mapping[str, str] = import_module(f"helperd.helpers.{builtin}").HELPER.OPTIONS
    return own
