"""What was known beside a packet, in words: the comment of its block. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from helperd.wire.messages import Gps, Signal

_SIGNAL: Final = (
    ("dbm", "signal", "dBm"),
    ("noise_dbm", "noise", "dBm"),
    ("rssi", "rssi", ""),
    ("noise_rssi", "noise_rssi", ""),
    ("khz", "freq", "kHz"),
    ("rate", "rate", ""),
)
_PLACE: Final = (
    ("latitude", "lat", ""),
    ("longitude", "lon", ""),
    ("altitude", "alt", "m"),
    ("speed", "speed", "km/h"),
    ("heading", "heading", ""),
    ("precision", "precision", "m"),
)


def describe(signal: Signal | None, gps: Gps | None = None) -> str:
    """What was known beside a packet, as its comment: ``signal=-60dBm freq=2437000kHz channel=6 lat=52.5 lon=13.4``."""
    words = []
    if signal is not None:
        words += _words(signal, _SIGNAL)
        if signal.channel:
            words.append(f"channel={signal.channel}")
    if gps is not None:
        words += _words(gps, _PLACE)
    return " ".join(words)


def _words(block: Signal | Gps, fields: tuple[tuple[str, str, str], ...]) -> list[str]:
    values = ((word, getattr(block, name), unit) for name, word, unit in fields)
    return [f"{word}={value:.15g}{unit}" for word, value, unit in values if value is not None]
