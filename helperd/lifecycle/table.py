"""What an event means in each state: every pair answered, in one table.

  wake  go to STARTING.                       same  already so; tell the caller.
  end   leave the incarnation, to STOPPING.   keep  remembered; acted on when the process tree is empty.
  go    go to the state named.                note  nothing has to be done here.
  bug   cannot happen: logged, counted, shown; the state stays.

Events never move the state: the source's coroutine acts on the answer and walks to ``Life.enter``, which
accepts only ``ARROWS``, and these are read out of the same table.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a source's coroutine stands."""

    DOWN = "down"
    STARTING = "starting"
    GREETING = "greeting"
    OPENING = "opening"
    RUNNING = "running"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"


PROMISES: dict[State, str] = {
    State.DOWN: "no process, tree empty, device free; why: never-started, stopped or done",
    State.STARTING: "waits for a slot or for the launcher; at most one process is about to exist",
    State.GREETING: "one process with exactly its profile's privilege; only a PING was sent",
    State.OPENING: "generation fixed, open request sent; text may come, packets may not",
    State.RUNNING: "the helper said yes; packets flow; the verdict on its liveness is current",
    State.STOPPING: "nothing new is asked, what still arrives is delivered, the ladder climbs",
    State.BACKOFF: "no process, tree empty; the next try has one fixed time, which is shown",
    State.FAILED: "no process; the configured limit was reached; only an order leads out",
}


class Event(StrEnum):
    """What can happen to a source; the first five are orders."""

    START = "start"
    RESTART = "restart"
    STOP = "stop"
    REPLACE = "replace"
    REMOVE = "remove"
    ENDED = "ended"
    HUNG = "hung"
    DUE = "due"
    OUR_FAULT = "our-fault"
    LAUNCHED = "launched"
    GREETED = "greeted"
    OPENED = "opened"
    SETTLED = "settled"
    EMPTY = "empty"
    DEVICE_APPEARED = "device-appeared"


ORDERS = frozenset({Event.START, Event.RESTART, Event.STOP, Event.REPLACE, Event.REMOVE})
TRIES = frozenset({Event.START, Event.RESTART, Event.REPLACE})


class Answer(StrEnum):
    """What the coroutine does about an event; see the head of this file."""

    WAKE = "wake"
    SAME = "same"
    END = "end"
    KEEP = "keep"
    GO = "go"
    NOTE = "note"
    BUG = "bug"


# One column per state, in State's order. "go:NAME" names a state, or: leave (the source is removed), rung
# (the next one of the stop ladder), verdict (what Life.verdict says).
_TABLE: dict[Event, str] = {
    #                       DOWN     STARTING    GREETING   OPENING    RUNNING STOPPING   BACKOFF  FAILED
    Event.START: "          wake     same        same       same       same    keep       wake     wake",
    Event.RESTART: "        wake     same        end        end        end     keep       wake     wake",
    Event.STOP: "           same     end         end        end        end     keep       go:down  go:down",
    Event.REPLACE: "        wake     end         end        end        end     keep       wake     wake",
    Event.REMOVE: "         go:leave end         end        end        end     keep       go:leave go:leave",
    Event.ENDED: "          bug      end         end        end        end     note       bug      bug",
    Event.HUNG: "           bug      bug         bug        end        end     note       bug      bug",
    Event.DUE: "            bug      end         end        end        bug     go:rung    wake     bug",
    Event.OUR_FAULT: "      note     end         end        end        end     go:rung    note     note",
    Event.LAUNCHED: "       bug      go:greeting bug        bug        bug     keep       bug      bug",
    Event.GREETED: "        bug      bug         go:opening bug        bug     note       bug      bug",
    Event.OPENED: "         bug      bug         bug        go:running bug     note       bug      bug",
    Event.SETTLED: "        bug      bug         bug        bug        note    note       bug      bug",
    Event.EMPTY: "          bug      bug         bug        bug        bug     go:verdict bug      bug",
    Event.DEVICE_APPEARED: "note     keep        keep       keep       keep    keep       wake     note",
}
_WHITHER: dict[str, State | None] = {
    **dict.fromkeys(("same", "keep", "note", "bug"), None),
    "wake": State.STARTING,
    "end": State.STOPPING,
    "go:leave": None,
    "go:verdict": None,
    "go:rung": State.STOPPING,
    "go:down": State.DOWN,
    "go:greeting": State.GREETING,
    "go:opening": State.OPENING,
    "go:running": State.RUNNING,
}

ANSWERS: dict[State, dict[Event, tuple[Answer, State | None]]] = {
    state: {
        event: (Answer(row.split()[column].partition(":")[0]), _WHITHER[row.split()[column]])
        for event, row in _TABLE.items()
    }
    for column, state in enumerate(State)
}
"""Every (state, event) pair: the answer, and the state it leads to. None as the state of a ``go`` is leave
(event remove) or what the verdict says (event empty). The one pair that needs a second look: ``replace`` of a
source that is DOWN and not wanted up is kept, not woken."""

VERDICTS: frozenset[State | None] = frozenset({State.STARTING, State.BACKOFF, State.DOWN, State.FAILED, None})
"""Where a stopped incarnation can lead; None is leave."""

ARROWS: dict[State, frozenset[State | None]] = {
    state: frozenset(
        target
        for event, (answer, whither) in row.items()
        if answer in {Answer.WAKE, Answer.END, Answer.GO}
        for target in (VERDICTS if event is Event.EMPTY else {whither})
    )
    for state, row in ANSWERS.items()
}
"""The moves ``Life.enter`` accepts, read out of ``ANSWERS``."""
