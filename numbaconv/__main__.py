"""``python -m numbaconv``."""

from __future__ import annotations

import sys

from numbaconv.cli import main

if __name__ == "__main__":
    sys.exit(main())
