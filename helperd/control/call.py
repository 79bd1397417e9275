"""One Varlink message each way: a call is read, a reply or an error is written. Pure.

A message is one JSON object and a NUL byte. A call has ``method``, and may have ``parameters``, ``more``
(several replies, all but the last with ``continues``), ``oneway`` (no reply at all) and ``upgrade``.

Source of facts: varlink.org, "Method Call".
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

from helperd.errors import Code, HelperdError
from helperd.places import Rank

if TYPE_CHECKING:
    from collections.abc import Mapping

OWN: Final = "io.helperd"
SERVICE: Final = "org.varlink.service"

_ERRORS: Final = {
    "unknown-source": "UnknownSource",
    "not-permitted": "NotPermitted",
    "bad-request": "BadRequest",
    "busy": "Busy",
}


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it came.

    Attributes:
        interface: all of the name up to its last dot.
        method: the rest.
        parameters: empty when there were none.
        who: the uid of whoever calls.
        rank: what it may take of what is kept.
    """

    interface: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    more: bool = False
    oneway: bool = False
    upgrade: bool = False
    who: int = 0
    rank: Rank = Rank.OWNER


class CallError(Exception):
    """A Varlink error, ready to be sent.

    Attributes:
        error: the qualified name.
        parameters: its fields.
        last: the connection cannot go on after it.
    """

    def __init__(self, error: str, parameters: Mapping[str, Any], *, last: bool = False) -> None:
        super().__init__(error, parameters)
        self.error = error
        self.parameters = parameters
        self.last = last

    def encode(self) -> bytes:
        """The message."""
        return _message({"error": self.error, "parameters": self.parameters})


def bad_request(text: str, *, last: bool = False) -> CallError:
    """The message was not a call."""
    return CallError(
        f"{OWN}.BadRequest", {"problem": "bad-request", "text": text, "code": int(Code.USAGE)}, last=last
    )


def service_error(name: str, what: Mapping[str, str], problem: str, text: str) -> CallError:
    """One of ``org.varlink.service``'s errors; problem and text ride along as our own extension of it."""
    return CallError(
        f"{SERVICE}.{name}", {**what, OWN: {"problem": problem, "text": text, "code": int(Code.USAGE)}}
    )


def error_of(error: HelperdError, **where: object) -> CallError:
    """A failure of the daemon as a Varlink error; ``where`` adds fields that its error declares."""
    name = _ERRORS.get(error.problem, "Failed")
    text = str(error).removeprefix(f"{error.problem}: ")
    code = Code.NOT_PERMITTED if name == "NotPermitted" else error.exit_code
    return CallError(f"{OWN}.{name}", {**where, "problem": error.problem, "text": text, "code": int(code)})


def encode_reply(parameters: Mapping[str, Any], *, continues: bool = False) -> bytes:
    """A reply as a message; ``continues`` says that another follows."""
    reply: dict[str, Any] = {"parameters": parameters}
    if continues:
        reply["continues"] = True
    return _message(reply)


def _message(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\0"


def parse_call(message: bytes | bytearray) -> Call:
    """Read one message, without its NUL.

    Raises:
        CallError: BadRequest; it ends the connection when the bytes are not JSON at all.
    """
    try:
        value = json.loads(message, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise bad_request(
            f"a message must be one JSON object and a NUL byte ({reason[:200]}); the connection is closed",
            last=True,
        ) from None
    if not isinstance(value, dict):
        raise bad_request(f"a call is a JSON object, not {_kind(value)}")
    name = value.get("method")
    if not isinstance(name, str):
        raise bad_request('a call needs "method", a text like "io.helperd.GetStatus"')
    interface, dot, method = name.rpartition(".")
    if not dot or not interface or not method:
        raise bad_request(f"method {name[:100]!r} lacks its interface; write it like io.helperd.GetStatus")
    parameters = value.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise bad_request(f'"parameters" is a JSON object, not {_kind(parameters)}')
    more, oneway, upgrade = (_flag(value, key) for key in ("more", "oneway", "upgrade"))
    if upgrade and (more or oneway):
        raise bad_request('"upgrade" goes neither with "more" nor with "oneway"')
    return Call(interface, method, parameters, more=more, oneway=oneway, upgrade=upgrade)


def _flag(value: Mapping[str, Any], key: str) -> bool:
    flag = value.get(key)
    if flag is None or isinstance(flag, bool):
        return bool(flag)
    raise bad_request(f'"{key}" is true or false, not {_kind(flag)}')


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "an array"
        case _:
            return "an object"


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")
