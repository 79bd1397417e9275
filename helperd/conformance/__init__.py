"""The conformance kit: any helper, in any language, led through the protocol from outside, and what it did wrong.

    subject --> checks --> table

The kit is the supervisor's end of two pipes, as a Kismet server is one, and starts the helper anew for every check.
"""
