"""``python -m helperd.extcap``: what Wireshark starts as ``helperd-extcap``."""

import sys

from helperd.extcap import main

sys.exit(main())
