"""`python -m vmkeep` is the command `vmkeep`."""

import sys

from vmkeep.cli import main

sys.exit(main())
