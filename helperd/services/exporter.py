"""``exporter``: what helperd does, for Prometheus, over HTTP on this machine.

::

    [[service]]
    name = "metrics"
    command = ["builtin:exporter", "--listen=127.0.0.1:9747"]

Rules:
  1. It has no numbers of its own: every scrape asks the control socket. A daemon that does not answer is
     ``helperd_up 0``, not an error.
  2. Only GET of ``/metrics`` is answered; a client has ``CLIENT_S`` seconds, and ``CLIENTS`` at most are served.
  3. Addresses that other machines reach need ``--exposed``: there is no password.

Source of facts: Prometheus, "Exposition formats", text format 0.0.4; "Metric and label naming".
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

from helperd import __version__
from helperd.control.client import Client
from helperd.errors import Code, HelperdError
from helperd.printing import say
from helperd.services._place import control_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLIENT_S: Final = 10.0
CLIENTS: Final = 8
ASK_S: Final = 5.0
STATES: Final = ("down", "starting", "greeting", "opening", "running", "stopping", "backoff", "failed")
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Page:
    """The text of one scrape."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def family(self, name: str, kind: str, meaning: str) -> None:
        """Begin a metric; all its samples follow."""
        self.lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]

    def sample(self, name: str, value: float | None, **labels: object) -> None:
        """One number; None: it is not known, and left out."""
        if value is None:
            return
        said = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        number = str(int(value)) if float(value).is_integer() else repr(value)
        self.lines.append(f"{name}{{{said}}} {number}" if labels else f"{name} {number}")

    def text(self) -> str:
        """All of it."""
        return "\n".join(self.lines) + "\n"


def _escaped(text: object) -> str:
    return str(text).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def page_of(status: Mapping[str, Any] | None) -> str:
    """A scrape's answer.

    Args:
        status: a reply of ``GetStatus``; None: the daemon did not answer.
    """
    page = Page()
    page.family("helperd_up", "gauge", "Whether the daemon answers at its control socket.")
    page.sample("helperd_up", status is not None)
    if status is not None:
        _daemon(page, status)
        _sources(page, status["sources"])
        _consumers(page, status["consumers"])
        _sinks(page, status)
        _services(page, status.get("services") or [])
    return page.text()


def _daemon(page: Page, status: Mapping[str, Any]) -> None:
    page.family("helperd_info", "gauge", "The daemon's version.")
    page.sample("helperd_info", 1, version=status["version"])
    for name, kind, meaning, key in (
        ("helperd_uptime_seconds", "gauge", "Seconds since the daemon started.", "uptime_s"),
        ("helperd_late_beats_total", "counter", "How often the daemon's own loop was late.", "late_beats"),
        ("helperd_bugs_total", "counter", "Errors of the daemon's own that it survived.", "bugs"),
        ("helperd_messages_dropped_total", "counter", "Messages of helpers beyond their budget.", "messages_dropped"),
    ):  # fmt: skip
        page.family(name, kind, meaning)
        page.sample(name, status.get(key))
    page.family("helperd_healthy", "gauge", "Whether all sources that are wanted run.")
    page.sample("helperd_healthy", status.get("health") in {None, "ok"})
    page.family("helperd_log_lines_lost_total", "counter", "Log lines dropped or not written.")
    log = status.get("log") or {}
    page.sample("helperd_log_lines_lost_total", log.get("dropped", 0) + log.get("lost", 0))


_SOURCE: Final = (
    ("helperd_source_packets_total", "counter", "Packets received from the helper.", "packets"),
    ("helperd_source_bytes_total", "counter", "Bytes received from the helper.", "bytes"),
    ("helperd_source_restarts_total", "counter", "Times that the helper was started again.", "restarts"),
    ("helperd_source_last_packet_age_seconds", "gauge", "Seconds since the last packet.", "age_s"),
    ("helperd_source_state_seconds", "gauge", "Seconds in the present state.", "since_s"),
    ("helperd_source_paused", "gauge", "Whether its packets are not passed on.", "paused"),
    ("helperd_source_crash_loop", "gauge", "Whether it fails again and again.", "crash_loop"),
    ("helperd_source_round_trip_seconds", "gauge", "Seconds that the last PING took to be answered.", "round_trip_s"),
)  # fmt: skip
_VITALS: Final = (
    ("helperd_source_cpu_seconds_total", "counter", "Processor time of the helper's processes.", "cpu_s"),
    ("helperd_source_memory_bytes", "gauge", "Resident memory of the helper's processes.", "memory"),
    ("helperd_source_processes", "gauge", "The helper's processes.", "processes"),
)


def _sources(page: Page, sources: Sequence[Mapping[str, Any]]) -> None:
    page.family("helperd_source_state", "gauge", "1 for the state that the source is in.")
    for source in sources:
        for state in STATES:
            page.sample("helperd_source_state", source["state"] == state, source=source["name"], state=state)
    page.family("helperd_source_info", "gauge", "What the source is.")
    for source in sources:
        words = {key: source.get(key) or "" for key in ("helper", "definition", "channel", "generation")}
        page.sample("helperd_source_info", 1, source=source["name"], **words)
    for name, kind, meaning, key in _SOURCE:
        page.family(name, kind, meaning)
        for source in sources:
            page.sample(name, source.get(key), source=source["name"])
    page.family("helperd_source_lost_packets_total", "counter", "Packets lost, by the place and reason.")
    for source in sources:
        for reason, number in source["lost"].items():
            page.sample("helperd_source_lost_packets_total", number, source=source["name"], reason=reason)
    page.family(
        "helperd_source_changed_packets_total", "counter", "Packets that left otherwise than they came."
    )
    for source in sources:
        for reason, number in (source.get("changed") or {}).items():
            page.sample("helperd_source_changed_packets_total", number, source=source["name"], reason=reason)
    for name, kind, meaning, key in _VITALS:
        page.family(name, kind, meaning)
        for source in sources:
            page.sample(name, (source.get("vitals") or {}).get(key), source=source["name"])


def _consumers(page: Page, consumers: Sequence[Mapping[str, Any]]) -> None:
    page.family("helperd_consumers", "gauge", "Connected readers of packets.")
    sinks: dict[str, int] = {}
    for consumer in consumers:
        sinks[consumer["sink"]] = sinks.get(consumer["sink"], 0) + 1
    for sink, number in sinks.items():
        page.sample("helperd_consumers", number, sink=sink)
    for name, kind, meaning, key in (
        ("helperd_consumer_packets_total", "counter", "Packets sent to a reader.", "packets"),
        ("helperd_consumer_lost_packets_total", "counter", "Packets that a reader was too slow for.", "lost"),
        ("helperd_consumer_queued_bytes", "gauge", "Bytes that wait for a reader.", "queued_bytes"),
    ):
        page.family(name, kind, meaning)
        for consumer in consumers:
            page.sample(name, consumer.get(key), sink=consumer["sink"], id=consumer["id"])


def _sinks(page: Page, status: Mapping[str, Any]) -> None:
    """Counters that never go back: a reader that leaves takes nothing along."""
    packets: dict[str, int] = {}
    lost: dict[tuple[str, str], int] = {}
    left = {row["name"]: row["left"] for row in status["sinks"] if row.get("left")}
    rows = [(name, row["packets"], row["lost"]) for name, row in left.items()]
    here = [
        row for row in status["consumers"] if row["sink"] in left
    ]  # those at the control socket are at none
    rows += [(row["sink"], row["packets"], row["lost_by"]) for row in here]
    for name, number, losses in rows:
        packets[name] = packets.get(name, 0) + number
        for reason, missing in losses.items():
            lost[name, reason] = lost.get((name, reason), 0) + missing
    page.family(
        "helperd_sink_packets_total", "counter", "Packets sent to all readers of a sink that ever were."
    )
    for name, number in packets.items():
        page.sample("helperd_sink_packets_total", number, sink=name)
    page.family("helperd_sink_lost_packets_total", "counter", "Packets that these lost, by the reason.")
    for (name, reason), number in lost.items():
        page.sample("helperd_sink_lost_packets_total", number, sink=name, reason=reason)
    page.family(
        "helperd_unexplained_packets", "gauge", "Packets that no account has: an error of helperd's own."
    )
    page.sample("helperd_unexplained_packets", status.get("residue"))


def _services(page: Page, services: Sequence[Mapping[str, Any]]) -> None:
    page.family("helperd_service_running", "gauge", "Whether the service runs.")
    for service in services:
        page.sample("helperd_service_running", service["state"] == "running", service=service["name"])
    page.family("helperd_service_restarts_total", "counter", "Times that the service was started again.")
    for service in services:
        page.sample("helperd_service_restarts_total", service["restarts"], service=service["name"])


class _Handler(BaseHTTPRequestHandler):
    """Answers one client."""

    server: _Server
    timeout = CLIENT_S
    server_version = f"helperd-exporter/{__version__}"
    sys_version = ""

    def do_GET(self) -> None:
        """Send the page."""
        if self.path.partition("?")[0] not in {"/metrics", "/"}:
            self.send_error(HTTPStatus.NOT_FOUND, "the numbers are at /metrics")
            return
        body = page_of(self.server.status()).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        """Say nothing: a scrape every few seconds is no news."""


class _Server(ThreadingHTTPServer):
    """Serves few clients at once, and drops the others."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], control: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._control = control
        self._room = threading.BoundedSemaphore(CLIENTS)
        super().__init__(address, _Handler)

    def status(self) -> dict[str, Any] | None:
        """Ask the daemon; None when it does not answer."""
        try:
            with Client(self._control, ASK_S) as client:
                return client.call("GetStatus")
        except HelperdError as error:
            say(f"no answer from the daemon: {error}", file=sys.stderr, flush=True)
            return None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a client, or close its connection when there are too many."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a client in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news; anything else is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def address(text: str) -> tuple[str, int]:
    """``HOST:PORT`` with a numeric host; IPv6 in brackets."""
    host, _colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
        if 0 <= int(port) < 1 << 16:
            return host, int(port)
    except (OSError, ValueError):
        pass
    raise argparse.ArgumentTypeError(f"write it like 127.0.0.1:9747 or [::1]:9747, not {text!r}")


def build() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="exporter", description="Shows Prometheus what helperd does.", allow_abbrev=False
    )
    parser.add_argument("--listen", type=address, default=("127.0.0.1", 9747), metavar="HOST:PORT",
                        help="where http://HOST:PORT/metrics is (default: 127.0.0.1:9747)")  # fmt: skip
    parser.add_argument(
        "--exposed", action="store_true", help="other machines may reach it, without password"
    )
    parser.add_argument(
        "--runtime-dir", metavar="DIR", help="of the daemon, when it did not start this service"
    )
    return parser


def main(argv: list[str]) -> int:
    """Serve until SIGTERM; return the exit status."""
    args = build().parse_args(argv)
    host, port = args.listen
    loopback = host == "::1" or host.startswith("127.")
    if not loopback and not args.exposed:
        say(f"{host} can be reached from other machines; add --exposed if that is meant", file=sys.stderr)
        return Code.USAGE
    try:
        server = _Server((host, port), control_path(args.runtime_dir))
    except OSError as error:
        say(f"cannot listen at {host}:{port}: {error.strerror or error}", file=sys.stderr)
        return Code.SYSTEM
    shown = f"[{host}]" if ":" in host else host
    say(f"serving http://{shown}:{server.server_address[1]}/metrics", file=sys.stderr, flush=True)
    threading.Thread(target=_end_with_helperd, args=(args.runtime_dir,), daemon=True).start()
    with server:
        server.serve_forever()
    return Code.DONE


def _end_with_helperd(given: str | None) -> None:
    """End when helperd closes what it told us on; the launcher would end us anyway."""
    if given is None:
        try:
            while os.read(3, 4096):
                pass
        except OSError:
            return
        os._exit(Code.DONE)
