"""``helperd-extcap``: every device and source of a running helperd in Wireshark's and tshark's list of interfaces.

Wireshark starts it often, and waits for it: it imports next to nothing, and asks the control socket only.
"""
