"""The helper protocol: bytes on one side, meaning on the other.

Pure: no file descriptor, no clock, no event loop. A shell reads bytes, hands each read to
``Session.receive``, writes what ``Session.send`` returns, and is told the time it should pass in. Five
nouns:

* a **generation** is one framing of the protocol (v0, v2, v3); ``generations.GENERATIONS`` lists them,
* a **frame** is one message on the wire; a **run** is neighbouring data frames of one read,
* a **message** is what a control frame means, the same class whatever the generation,
* a **definition** is the text that names a source and its options,
* a **session** is one peer: its generation, its phase, its sequence numbers.
"""
