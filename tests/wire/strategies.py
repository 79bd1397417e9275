"""Hypothesis strategies for messages: all of them, and those a generation has."""

from __future__ import annotations

from hypothesis import strategies as st

from helperd.wire import messages as m

text = st.text(max_size=30)
name = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=',:="'), min_size=1, max_size=12
)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
u63 = st.integers(0, (1 << 63) - 1)
real = st.floats(allow_nan=False)
level = st.none() | st.integers(-(1 << 31), (1 << 31) - 1)
names = st.lists(name, max_size=5).map(tuple)
severities = st.sampled_from(m.Severity)
pairs = st.dictionaries(text, text, max_size=4).map(lambda found: tuple(found.items()))
texts = st.builds(m.Text, severities, text)
hoppings = st.builds(
    m.Hopping, names, st.none() | real, st.none() | st.booleans(), st.none() | u16, st.none() | u16
)
interfaces = st.lists(st.builds(m.Interface, text, text, text, text), max_size=4).map(tuple)
signals = st.builds(
    m.Signal,
    level,
    level,
    level,
    level,
    st.none() | st.integers(0, 1 << 50),
    text,
    st.none() | st.integers(0, 1 << 50),
)
positions = st.builds(m.Gps, real, real, real, real, real, real, st.integers(0, 3), u63, u63, text, text)
packets = st.builds(
    m.Packet, st.binary(max_size=400), u16, u32, st.integers(0, 999_999), st.none() | st.integers(1, 1 << 31)
)
jsons = st.builds(m.Json, text, text, u63, u63)
buffers = st.builds(m.Buffer, text, st.binary(max_size=30), u63, u63)
data_reports = st.builds(
    m.DataReport, st.none() | packets, st.none() | signals, st.none() | positions, st.none() | jsons
)
devices = st.builds(
    m.BluetoothDevice, text, text, u63, u63, st.integers(-(1 << 31), (1 << 31) - 1), u16, names
)


@st.composite
def reports(draw, kind, **fields):
    """A report whose severity is only told when it is unusual and there is a message."""
    return kind(
        request=draw(u32),
        success=draw(st.booleans()),
        message=draw(text),
        **{k: draw(v) for k, v in fields.items()},
    )


COMMON = {
    m.Ping: st.builds(m.Ping),
    m.Pong: st.builds(m.Pong, u32),
    m.Shutdown: st.builds(m.Shutdown, text),
    m.Text: texts,
    m.Register: st.builds(m.Register, text),
    m.ListRequest: st.builds(m.ListRequest),
    m.ProbeRequest: st.builds(m.ProbeRequest, text),
    m.OpenRequest: st.builds(m.OpenRequest, text),
    m.ConfigureRequest: st.builds(m.ConfigureRequest, text)
    | st.builds(m.ConfigureRequest, st.just(""), hoppings),
    m.ListReport: reports(m.ListReport, interfaces=interfaces),
    m.ProbeReport: reports(m.ProbeReport, hardware=text, channel=text, channels=names),
    m.OpenReport: reports(
        m.OpenReport,
        dlt=st.none() | u32,
        capture_interface=text,
        channels=names,
        channel=text,
        hopping=st.none() | hoppings,
        hardware=text,
        uuid=text,
    ),
    m.ConfigureReport: reports(m.ConfigureReport, channel=text, hopping=st.none() | hoppings),
    m.ErrorReport: st.builds(m.ErrorReport, u32, text),
    m.NewSource: st.builds(m.NewSource, text, text, text),
    m.DataReport: data_reports,
    m.EventRegister: st.builds(m.EventRegister, names),
    m.Event: st.builds(m.Event, text),
    m.EventPublish: st.builds(m.EventPublish, text, text),
    m.HttpRegister: st.builds(m.HttpRegister, text, text),
    m.HttpRequest: st.builds(m.HttpRequest, u32, text, text, pairs),
    m.HttpCancel: st.builds(m.HttpCancel, u32),
    m.HttpResponse: st.builds(
        m.HttpResponse,
        u32,
        pairs,
        st.none() | st.binary(max_size=40),
        st.none() | u32,
        st.none() | st.booleans(),
    ),
    m.AuthRequest: st.builds(m.AuthRequest),
    m.AuthToken: st.builds(m.AuthToken, text),
}
"""What every generation has, with the fields every generation has."""

PROTOBUF_ONLY = {
    m.CloseRequest: st.builds(m.CloseRequest),
    m.WarningReport: st.builds(m.WarningReport, text),
    m.BluetoothReport: st.builds(
        m.BluetoothReport, devices, st.none() | signals, st.none() | positions, st.none() | texts, text
    ),
}
V3_ONLY = {
    m.Lost: st.builds(m.Lost, st.sampled_from(m.LOSSES), st.integers(1, (1 << 64) - 1)),
    m.Changed: st.builds(m.Changed, st.sampled_from(m.CHANGES), st.integers(1, (1 << 64) - 1)),
}
RICHER = {
    "v3": st.one_of(
        *V3_ONLY.values(),
        reports(m.ListReport, interfaces=interfaces, version=text),
        reports(m.ProbeReport, capture_interface=text),
        reports(m.OpenReport, version=text, problem=text),
        *(reports(kind, problem=text) for kind in (m.ListReport, m.ProbeReport, m.ConfigureReport)),
        st.builds(m.ErrorReport, u32, text, problem=text),
        st.builds(m.Register, text, u32),
        st.builds(m.DataReport, st.builds(m.Packet, st.binary(max_size=20))),
        st.builds(m.DataReport, gps=st.builds(m.Gps, uuid=text)),
    ),
    "v2": st.one_of(
        reports(m.OpenReport, warning=text),
        reports(m.ConfigureReport, warning=text),
        st.builds(m.ErrorReport, u32, text, st.booleans()),
        st.builds(
            m.OpenReport, u32, message=name, severity=st.sampled_from([m.Severity.ALERT, m.Severity.DEBUG])
        ),
        st.builds(m.DataReport, buffer=buffers, message=texts, warning=text),
        st.builds(m.DataReport, signal=st.builds(m.Signal, real, real, real, real, real, text, real)),
    ),
}
RICHER["v0"] = RICHER["v2"]
common = st.one_of(*COMMON.values())
protobuf_only = st.one_of(*PROTOBUF_ONLY.values())


def messages(generation):
    """Everything a generation has."""
    if generation.name == "v3":
        return common | RICHER["v3"]
    return common | protobuf_only | RICHER["v2"]
