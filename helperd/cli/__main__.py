"""``python -m helperd.cli``: the same as the ``helperd`` command."""

import sys

from helperd.cli import main

sys.exit(main())
