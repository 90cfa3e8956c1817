"""The console script; ``python -m diladiff_cli`` is the same as ``diladiff``."""

import sys
from typing import NoReturn

from diladiff_cli.notes import say


def main() -> NoReturn:
    """Run the command line."""
    try:
        from diladiff_cli.cli.main import main as command_line

        command_line()
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()
