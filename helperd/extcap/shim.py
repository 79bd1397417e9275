"""What Wireshark asks, one question per process: interfaces, link types, options, a capture.

Rules:
  1. Without a daemon the installed launcher's helpers are asked; where that cannot be either, the list has one entry
     that says why and what to do. Wireshark starts with us: the answer comes within seconds, whatever is wrong.
  2. A capture says on stderr why it cannot be, and ends with helperd's exit code; Wireshark shows the text.
  3. Nothing but sentences goes to stdout, and nothing at all during a capture.
"""

from __future__ import annotations

import os
import sys

from helperd import __version__
from helperd.control.client import Client
from helperd.errors import Code, HelperdError, UsageError
from helperd.extcap.answers import alone, tell
from helperd.extcap.words import Place, Words, interface_of, parse, place_of, plain, sentence
from helperd.printing import say, write
from helperd.runtime import CONTROL_SOCKET, NO_WAY, find_runtime_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Final

STATUS_S: Final = 1.0
LIST_S: Final = 3.0
"""Seconds that Wireshark may wait for us at most: for the sources, and for the devices."""
USER_DLT: Final = 147
_PROBE_S: Final = 10.0

USAGE: Final = """\
usage: helperd-extcap --extcap-interfaces
       helperd-extcap --extcap-interface NAME (--extcap-dlts | --extcap-config [--extcap-reload-option channel])
       helperd-extcap --extcap-interface NAME --capture --fifo FILE [--extcap-capture-filter FILTER]
                      [--extcap-control-in FILE --extcap-control-out FILE] [--OPTION VALUE ...]
       helperd-extcap --help | --version

Makes the devices and sources of a running helperd interfaces of Wireshark and tshark, which start it themselves.
Options: those that --extcap-config names, and --runtime-dir DIR. See helperd-extcap(1).
"""

CONTROLS: Final = (
    sentence("control", number=0, type="selector", display="Channel", tooltip="Tune the source to one channel"),
    sentence("control", number=1, type="button", display="Hop", tooltip="Let the source hop over its channels"),
    sentence(
        "control", number=2, type="button", role="logger", display="Messages",
        tooltip="What the helper says",
    ),
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Answer one question; return the exit status, as listed in ``errors.Code``. None: this process' own words."""
    try:
        return _answer(parse(sys.argv[1:] if argv is None else argv))
    except HelperdError as error:
        tell(error)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return Code.DONE


def _answer(words: Words) -> int:
    flags = words.flags
    if "version" in flags:
        return _say([f"helperd-extcap {__version__}"])
    if "extcap-interfaces" in flags:
        return _say(_interfaces(words))
    name = words.values.get("extcap-interface")
    if name is None:
        write(USAGE)
        return Code.DONE if "help" in flags else Code.USAGE
    place = place_of(name)
    if "capture" in flags:
        fifo = words.values.get("fifo")
        if fifo is None:
            raise UsageError("usage", "--capture needs --fifo FILE")
        from helperd.extcap.capture import Wanted, capture

        return capture(
            Wanted(
                control=_socket(words),
                alone="runtime-dir" not in words.values,
                place=place,
                options=words.options,
                filter=words.values.get("extcap-capture-filter", ""),
                fifo=fifo,
                control_in=words.values.get("extcap-control-in", ""),
                control_out=words.values.get("extcap-control-out", ""),
            )
        )
    if "extcap-dlts" in flags:
        return _say(_linktypes(words, place))
    if "extcap-config" in flags:
        return _say(_options(words, place))
    if "extcap-capture-filter" in words.values:
        return _check_filter(words, place)
    write(USAGE)
    return Code.USAGE


def _say(lines: Iterable[str]) -> int:
    say(*lines, flush=True)
    return Code.DONE


def _socket(words: Words) -> str:
    """Where the daemon listens.

    Raises:
        UnavailableError: "unsafe-file".
    """
    return os.path.join(find_runtime_dir(words.values.get("runtime-dir")), CONTROL_SOCKET)


def _interfaces(words: Words) -> Iterator[str]:
    """What there is to capture from; sources first."""
    yield sentence("extcap", version=__version__, display="helperd", help="https://pypi.org/project/helperd/")
    try:
        with Client(_socket(words), STATUS_S) as client:
            sources = client.call("GetStatus")["sources"]
    except HelperdError as error:
        yield from _without_daemon(words) if error.problem in NO_WAY else [_trouble(error)]
        return
    yield from CONTROLS
    yield sentence("interface", value=interface_of(Place()), display="helperd: all sources")
    for source in sources:
        place = Place(source=source["name"])
        about = ", ".join(part for part in (source.get("hardware"), source["state"]) if part)
        yield sentence("interface", value=interface_of(place), display=f"helperd: {source['name']} ({about})")
    yield from _devices(_listing(words)["devices"])


def _devices(devices: Iterable[dict[str, Any]]) -> Iterator[str]:
    """What could be opened."""
    for device in devices:
        if device.get("in_use") is None:
            place = Place(helper=device["helper"], device=device["interface"])
            about = device["hardware"] or device["helper"]
            yield sentence(
                "interface", value=interface_of(place), display=f"helperd: {device['interface']} ({about})"
            )


def _without_daemon(words: Words) -> Iterator[str]:
    """The devices of the installed launcher's helpers, or why there are none."""
    try:
        found = _answers(words).call("ListDevices")
    except HelperdError as error:
        yield _trouble(error)
        return
    yield from _devices(found["devices"])
    if not found["devices"]:
        failed = next(iter(found["failed"]), {"text": "no helper is configured"})
        yield _trouble(HelperdError("no-daemon", failed["text"]))


def _trouble(error: HelperdError) -> str:
    """The one entry of a list that has nothing to capture from."""
    if sys.stderr.isatty():  # somebody asks by hand
        tell(error)
    return sentence("interface", value=interface_of(Place()), display=f"helperd: {error.text}")


def _answers(words: Words) -> Any:
    """Who answers questions: the daemon, or, without one, the installed launcher's helpers.

    Raises:
        UnavailableError: neither does; the text says what is missing here.
    """
    try:
        return Client(_socket(words), _PROBE_S)
    except HelperdError as error:
        if "runtime-dir" in words.values or error.problem not in NO_WAY:
            raise
        return alone(error)


def _listing(words: Words) -> dict[str, Any]:
    """What could be opened; nothing when the helpers do not answer in time."""
    try:
        with Client(_socket(words), LIST_S) as client:
            return client.call("ListDevices")
    except HelperdError:
        return {"devices": [], "failed": []}


def _linktypes(words: Words, place: Place) -> Iterator[str]:
    """What is known before a capture; the stream itself says it per packet."""
    known: list[int] = []
    if place.source:
        try:
            with Client(_socket(words), STATUS_S) as client:
                known = client.call("GetSource", source=place.source)["source"]["linktypes"]
        except HelperdError:
            known = []
    for number in known:
        yield sentence("dlt", number=number, name=f"DLT{number}", display=f"link type {number}")
    if not known:
        yield sentence("dlt", number=USER_DLT, name="helperd", display="as the source says")


def _options(words: Words, place: Place) -> Iterator[str]:
    """The dialog: what a driver's definitions may have, and the channel."""
    from helperd.extcap.options import channels, options_of

    with _answers(words) as client:
        reload = words.values.get("extcap-reload-option")
        if reload is not None and reload != "channel":
            return
        options = options_of(client, place)
        for number, option in enumerate(options):
            channel = option.name == "channel"
            if reload is None:
                yield sentence(
                    "arg",
                    number=number,
                    call=f"--{option.name}",
                    display=option.name.replace("_", " ").capitalize(),
                    type="selector" if channel else "string",
                    tooltip=option.meaning,
                    reload="true" if channel else None,
                    placeholder="Load the channels" if channel else None,
                )
            if channel:
                yield sentence("value", arg=number, value="", display="as it is", default="true")
            if channel and (
                reload or place.source
            ):  # asking a helper takes a while: only when the user wants it
                for name in channels(client, place, words.options):
                    yield sentence("value", arg=number, value=name, display=name)


def _check_filter(words: Words, place: Place) -> int:
    """What is printed here is why the filter is none; nothing: it is one."""
    from helperd.extcap.options import definition_of

    text = words.values["extcap-capture-filter"]
    if not text:
        return Code.DONE
    try:
        with _answers(words) as client:
            definition = definition_of(client, place, words.options, text)
            found = client.call("Probe", definition=definition)
            if found["helper"] is None:
                refused = found.get("refused") or found["failed"]
                return _say([plain(refused[0]["text"] if refused else "refused")])
    except HelperdError as error:
        return _say([plain(error.text)])
    return Code.DONE
