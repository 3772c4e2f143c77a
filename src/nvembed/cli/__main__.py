"""`python -m nvembed.cli`, for where the `nvembed` command is not on the path."""

import sys

from nvembed.cli import main

if __name__ == "__main__":
    sys.exit(main())
