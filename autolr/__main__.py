"""``python -m autolr``: the command line."""

import sys

from autolr.cli import main

sys.exit(main())
