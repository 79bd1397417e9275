"""Messages: what frames mean, the same classes in every generation.

Rules:
  1. A message equals itself after a trip through any generation that has it; sequence numbers do not count.
  2. An absent text is ``""`` and an absent list is ``()``; an absent number is None.
  3. A report names the request it answers in ``request``, taken from its payload; 0 is unsolicited.
  4. ``severity`` of a report's message is None when it is the usual one: INFO on success, ERROR on failure.
  5. ``problem`` of a report is the problem word of its failure, as the helper says it: one of helperd's own keys, v3
     only (docs/protocol.md).

Fields: kismet-protocol.md, section 2.
"""

from __future__ import annotations

import enum

from helperd.wire.record import record, unseen


class Severity(enum.IntEnum):
    """How loud a text is; the numbers are the wire's."""

    DEBUG = 1
    INFO = 2
    ERROR = 4
    ALERT = 8
    FATAL = 16


@record
class Hopping:
    """A hop list and how to walk it.

    Attributes:
        channels: names of channels, in order.
        rate: hops per second; 0 ends hopping; None keeps the helper's value, as for all that follow.
        shuffle: whether to stride through the list.
        skip: the stride.
        offset: index to start at.
    """

    channels: tuple[str, ...] = ()
    rate: float | None = None
    shuffle: bool | None = None
    skip: int | None = None
    offset: int | None = None


@record
class Interface:
    """One device in a list report.

    Attributes:
        name: what a user would put before the colon of a definition.
        flags: options to put behind it, comma list.
        hardware: chipset or model.
        capture_interface: the lower-level name, when it differs.
    """

    name: str
    flags: str = ""
    hardware: str = ""
    capture_interface: str = ""


@record
class Signal:
    """What the radio knew of one packet; None where it did not.

    Attributes:
        dbm: signal in dBm.
        noise_dbm: noise in dBm.
        rssi: signal in the driver's own units.
        noise_rssi: noise in the driver's own units.
        khz: centre frequency in kHz.
        channel: name of the channel.
        rate: data rate in the driver's own units.
    """

    dbm: float | None = None
    noise_dbm: float | None = None
    rssi: float | None = None
    noise_rssi: float | None = None
    khz: float | None = None
    channel: str = ""
    rate: float | None = None


@record
class Gps:
    """Where a packet was heard.

    Attributes:
        latitude: degrees, north positive.
        longitude: degrees, east positive.
        altitude: metres.
        speed: km/h.
        heading: degrees.
        precision: metres.
        fix: 2 for 2D, 3 for 3D.
        sec: seconds since 1970.
        usec: microseconds.
        type: kind of receiver.
        name: name of the receiver.
        uuid: identity of the receiver; v3 only.
    """

    latitude: float = 0.0
    longitude: float = 0.0
    altitude: float = 0.0
    speed: float = 0.0
    heading: float = 0.0
    precision: float = 0.0
    fix: int = 0
    sec: int = 0
    usec: int = 0
    type: str = ""
    name: str = ""
    uuid: str = ""


@record
class Packet:
    """One captured packet.

    Attributes:
        content: the captured bytes.
        dlt: libpcap link type; None is the source's own (v3 only, required in v0 and v2).
        sec: seconds since 1970; None asks the receiver to stamp it (v3 only).
        usec: microseconds.
        original: length on the air in bytes; None when it is the content's.
    """

    content: bytes
    dlt: int | None = None
    sec: int | None = None
    usec: int = 0
    original: int | None = None


@record
class Json:
    """A record of a helper that hears things that are not packets.

    Attributes:
        type: which record it is.
        text: the JSON.
        sec: seconds since 1970; None asks the receiver to stamp it (v3 only).
        usec: microseconds.
        nsec: nanoseconds beyond them, 0 to 999; helperd's own, v3 only.
    """

    type: str
    text: str
    sec: int | None = None
    usec: int = 0
    nsec: int = 0


@record
class Buffer:
    """An opaque record for a plugin; v0 and v2 only."""

    type: str
    content: bytes
    sec: int = 0
    usec: int = 0


@record
class Ping:
    """Are you there? Answered at once by Pong, in every phase."""

    seqno: int = unseen(default=0)


@record
class Pong:
    """I am; ``request`` is the number of the Ping."""

    request: int


@record
class Shutdown:
    """End of the conversation."""

    reason: str = ""


@record
class Text:
    """A line for people."""

    severity: Severity
    text: str


@record
class Register:
    """Offers a subsystem (helper) or accepts it (supervisor). Kismet servers ignore it.

    In the bulk extension one that names a link type asks for its interface number (helper), or gives or refuses it
    (supervisor).

    Attributes:
        subsystem: its name and version, e.g. ``"helperd-bulk/2"``.
        interface: the pcapng interface number that packets of the link type are to have; None: there is none.
        dlt: libpcap link type (DLT_).
    """

    subsystem: str
    interface: int | None = None
    dlt: int | None = None


@record
class Lost:
    """Packets that the helper's device produced and the helper does not send; part of the bulk extension.

    Attributes:
        reason: where they were lost: a word of ``LOSSES``.
        packets: how many, since the last message of this kind with this reason; more than 0.
    """

    reason: str
    packets: int


LOSSES = ("kernel", "device", "helper-queue", "link-type", "too-long", "bad-record")
"""Why packets do not leave a helper: no room in the kernel's ring; lost inside the hardware or its driver; in the
helper itself, when its device does not wait and its reader is too slow; of a link type that helperd does not take;
longer than a frame and nothing that could be cut; nothing that can be read as a packet or a record."""


@record
class Changed:
    """Packets that the helper sends otherwise than they came to it; part of the bulk extension.

    Attributes:
        reason: what was changed: a word of ``CHANGES``.
        packets: how many, since the last message of this kind with this reason; more than 0.
    """

    reason: str
    packets: int


CHANGES = ("cut", "bad-stamp", "not-finite")
"""What a helper changes about a packet: longer than readers take, and shortened; a time that no capture can say, and
the nearest that it can; a number in JSON that is none (NaN, infinite), and null in its place."""


@record
class ListRequest:
    """Which devices are there?"""

    seqno: int = unseen(default=0)


@record
class ProbeRequest:
    """Is this definition yours?"""

    definition: str
    seqno: int = unseen(default=0)


@record
class OpenRequest:
    """Open this definition and stream."""

    definition: str
    seqno: int = unseen(default=0)


@record
class ConfigureRequest:
    """Tune: exactly one of a fixed channel and a hop list."""

    channel: str = ""
    hopping: Hopping | None = None
    seqno: int = unseen(default=0)


@record
class CloseRequest:
    """Close the source; defined on the wire, sent by nobody known."""

    seqno: int = unseen(default=0)


@record
class ListReport:
    """Answer to ListRequest; an empty list is a success. ``version`` is the helper's, v3 only."""

    request: int
    success: bool = True
    interfaces: tuple[Interface, ...] = ()
    message: str = ""
    version: str = ""
    problem: str = ""
    severity: Severity | None = None


@record
class ProbeReport:
    """Answer to ProbeRequest. ``capture_interface`` is v3 only."""

    request: int
    success: bool = True
    message: str = ""
    hardware: str = ""
    channel: str = ""
    channels: tuple[str, ...] = ()
    capture_interface: str = ""
    problem: str = ""
    severity: Severity | None = None


@record
class OpenReport:
    """Answer to OpenRequest.

    Attributes:
        request: number of the request.
        success: whether the source is open; when not, the helper ends.
        dlt: libpcap link type of what will come; some drivers leave nonsense here.
        capture_interface: lower-level name of the device.
        channels: all channels the device can tune to.
        channel: the present one.
        hopping: the present hop list.
        hardware: chipset or model.
        message: a line for people.
        uuid: identity of the source.
        warning: a line for people that stays; v0 and v2 only.
        version: of the helper; v3 only.
        problem: the problem word of a refusal; v3 only.
        severity: of ``message``, when unusual; v0 and v2 only.
    """

    request: int
    success: bool = True
    dlt: int | None = None
    capture_interface: str = ""
    channels: tuple[str, ...] = ()
    channel: str = ""
    hopping: Hopping | None = None
    hardware: str = ""
    message: str = ""
    uuid: str = ""
    warning: str = ""
    version: str = ""
    problem: str = ""
    severity: Severity | None = None


@record
class ConfigureReport:
    """Answer to ConfigureRequest, or unsolicited (``request`` 0) when a hop list shrank."""

    request: int
    success: bool = True
    channel: str = ""
    hopping: Hopping | None = None
    message: str = ""
    warning: str = ""
    problem: str = ""
    severity: Severity | None = None


@record
class ErrorReport:
    """Something failed; ``request`` 0 when it was nothing that was asked for."""

    request: int = 0
    message: str = ""
    success: bool = False
    problem: str = ""
    severity: Severity | None = None


@record
class WarningReport:
    """A warning that stays with the source; v0 and v2 only."""

    warning: str


@record
class NewSource:
    """The first words of a helper that dialled in by itself."""

    definition: str
    sourcetype: str
    uuid: str


@record
class DataReport:
    """What was heard; several blocks may come together. The receiving side gets these as runs, not as
    messages.

    ``buffer``, ``message`` and ``warning`` are v0 and v2 only.
    """

    packet: Packet | None = None
    signal: Signal | None = None
    gps: Gps | None = None
    json: Json | None = None
    buffer: Buffer | None = None
    message: Text | None = None
    warning: str = ""


@record
class BluetoothDevice:
    """A device in a legacy Bluetooth report."""

    address: str
    name: str = ""
    sec: int = 0
    usec: int = 0
    txpower: int = 0
    type: int = 0
    uuids: tuple[str, ...] = ()


@record
class BluetoothReport:
    """What ``kismet_cap_linux_bluetooth`` sends in v0 and v2 instead of JSON."""

    device: BluetoothDevice
    signal: Signal | None = None
    gps: Gps | None = None
    message: Text | None = None
    warning: str = ""


@record
class EventRegister:
    """Subscribes to server events by name; ``*`` is all."""

    events: tuple[str, ...]


@record
class Event:
    """One server event, as JSON."""

    json: str


@record
class EventPublish:
    """Publishes an event."""

    type: str
    json: str


@record
class HttpRegister:
    """Asks the server to pass requests for a URI on."""

    uri: str
    method: str


@record
class HttpRequest:
    """A request passed on; ``variables`` are (name, value) pairs."""

    id: int
    uri: str
    method: str
    variables: tuple[tuple[str, str], ...] = ()


@record
class HttpCancel:
    """The client of a request has gone; defined on the wire, sent by nobody known."""

    id: int


@record
class HttpResponse:
    """A part of an answer; ``close`` ends it."""

    id: int
    headers: tuple[tuple[str, str], ...] = ()
    content: bytes | None = None
    status: int | None = None
    close: bool | None = None


@record
class AuthRequest:
    """Asks the server for a token."""

    seqno: int = unseen(default=0)


@record
class AuthToken:
    """The token."""

    token: str


@record
class Unknown:
    """A frame whose command nobody here knows; ``command`` is its name or number as text."""

    command: str
    seqno: int = unseen(default=0)


Message = (
    Ping
    | Pong
    | Shutdown
    | Text
    | Register
    | Lost
    | Changed
    | ListRequest
    | ProbeRequest
    | OpenRequest
    | ConfigureRequest
    | CloseRequest
    | ListReport
    | ProbeReport
    | OpenReport
    | ConfigureReport
    | ErrorReport
    | WarningReport
    | NewSource
    | DataReport
    | BluetoothReport
    | EventRegister
    | Event
    | EventPublish
    | HttpRegister
    | HttpRequest
    | HttpCancel
    | HttpResponse
    | AuthRequest
    | AuthToken
    | Unknown
)


def usual_severity(success: bool) -> Severity:  # noqa: FBT001 - the flag is the subject
    """The severity a report's message has when nothing else is said."""
    return Severity.INFO if success else Severity.ERROR
