"""A rule machine walks both ends of a conversation: whatever the two may say, in whatever order it arrives, no end
ever finds fault with the other, and both agree with a simpler model.

HELPERD_WIRE_STEPS=1000000 walks a million steps; the default is small.
"""

import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from helperd.errors import LocalProtocolError
from helperd.wire import messages as m
from helperd.wire import v0, v2, v3
from helperd.wire.frames import Run
from helperd.wire.session import Phase, Role, Session
from tests.wire import strategies as s
from tests.wire.test_session import EXAMPLES

STEPS = int(os.environ.get("HELPERD_WIRE_STEPS", "3000"))
WALK = 100

REPORTS = {
    Phase.LISTING: lambda asked, ok: m.ListReport(asked, success=ok),
    Phase.PROBING: lambda asked, ok: m.ProbeReport(asked, success=ok),
    Phase.OPENING: lambda asked, ok: m.OpenReport(asked, success=ok, dlt=1),
}
ASKED = {m.ListRequest: Phase.LISTING, m.ProbeRequest: Phase.PROBING, m.OpenRequest: Phase.OPENING}
PLAIN = [
    one
    for kind, one in EXAMPLES.items()
    if kind not in (m.NewSource, m.Unknown, m.ListReport, m.ProbeReport, m.OpenReport)
]


class Model:
    """What a conversation is, said more simply: facts about what one end has sent or heard."""

    def __init__(self, *, greeted):
        self.greeted = greeted
        self.job = None
        self.open = False
        self.over = False

    def on(self, message, sender, asked):
        match message:
            case m.Shutdown():
                self.over = True
            case m.CloseRequest() if self.open or self.job is Phase.OPENING:
                self.over = True
            case m.ErrorReport(success=False) if self.job or self.open:
                self.over = True
            case m.Pong() if sender is Role.HELPER:
                self.greeted = True
            case m.ListRequest() | m.ProbeRequest() | m.OpenRequest() if not self.over:
                self.greeted, self.job = True, ASKED[type(message)]
            case m.ListReport() if self.job is Phase.LISTING:
                self.job = None
            case m.ProbeReport() if self.job is Phase.PROBING and message.request == asked:
                self.job = None
            case m.OpenReport() if self.job is Phase.OPENING:
                self.job, self.open, self.over = None, message.success, self.over or not message.success

    @property
    def phase(self):
        if self.over:
            return Phase.CLOSING
        if self.open:
            return Phase.OPEN
        return self.job or (Phase.READY if self.greeted else Phase.GREETING)


class Conversation(RuleBasedStateMachine):
    """Both ends, two pipes between them that deliver late and in pieces."""

    steps = 0

    def __init__(self):
        super().__init__()
        self.ends = None

    @initialize(generation=st.sampled_from([None, v0, v2, v3]))
    def begin(self, generation):
        supervisor, helper = Session(Role.SUPERVISOR, generation=generation), Session(Role.HELPER)
        self.ends = {Role.SUPERVISOR: supervisor, Role.HELPER: helper}
        self.models = {
            Role.SUPERVISOR: Model(greeted=generation is not None),
            Role.HELPER: Model(greeted=False),
        }
        self.pipes = {Role.SUPERVISOR: bytearray(), Role.HELPER: bytearray()}
        self.sent = {Role.SUPERVISOR: [], Role.HELPER: []}
        self.heard = {Role.SUPERVISOR: [], Role.HELPER: []}
        self.pipes[Role.SUPERVISOR] += supervisor.greeting()
        self.sent[Role.SUPERVISOR].append(m.Ping())

    def say(self, role, message):
        end = self.ends[role]
        before = end.last_seqno
        try:
            frame = end.send(message)
        except LocalProtocolError:
            assert end.last_seqno == before
            return
        self.models[role].on(message, role, end.asked)
        self.pipes[role] += frame
        self.sent[role].append(message)

    @rule(role=st.sampled_from(Role), message=st.sampled_from(PLAIN))
    def send(self, role, message):
        self.say(role, message)

    @rule(role=st.sampled_from(Role), message=s.common)
    def send_anything(self, role, message):
        if type(message) in (m.NewSource, m.ListReport, m.OpenReport, m.ProbeReport, m.DataReport):
            return
        self.say(role, message)

    @precondition(lambda self: self.ends[Role.HELPER].phase in REPORTS)
    @rule(ok=st.booleans())
    def answer(self, ok):
        helper = self.ends[Role.HELPER]
        self.say(Role.HELPER, REPORTS[helper.phase](helper.asked, ok))

    @rule()
    def complain(self):
        """What a C helper says to a command it does not know."""
        self.say(Role.HELPER, m.ProbeReport(0, success=False))

    @rule(role=st.sampled_from(Role), size=st.integers(1, 400))
    def deliver(self, role, size):
        """Some of the bytes that one end sent arrive at the other."""
        pipe = self.pipes[role]
        piece = bytes(pipe[:size])
        del pipe[:size]
        if not piece:
            return
        end = self.ends[role.other]
        for item in end.receive(piece):
            if isinstance(item, Run):
                self.heard[role.other] += list(end.generation.reports(item))
                continue
            self.models[role.other].on(item, role, end.asked)
            self.heard[role.other].append(item)

    @invariant()
    def agree(self):
        if self.ends is None:
            return
        Conversation.steps += 1
        for role, end in self.ends.items():
            assert end.phase is self.models[role].phase
            heard, sent = self.heard[role.other], self.sent[role]
            assert heard == sent[: len(heard)]
        assert self.ends[Role.SUPERVISOR].pending + self.ends[Role.HELPER].pending <= 1 << 20


def test_no_end_ever_finds_fault_with_the_other():
    Conversation.steps = 0
    while Conversation.steps < STEPS:
        budget = settings(
            max_examples=max(10, min(1000, STEPS // WALK)), stateful_step_count=WALK, deadline=None
        )
        run_state_machine_as_test(Conversation, settings=budget)
    assert Conversation.steps >= STEPS
