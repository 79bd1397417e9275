"""``python -m helperd.extcap``: what Wireshark starts as ``helperd-extcap``."""

import sys

from helperd.extcap.shim import main

sys.exit(main())
