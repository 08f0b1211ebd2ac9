"""The console command's start: refuse foreign packages of our names before anything of theirs is imported."""

from __future__ import annotations

import sys

from search.origin import OriginError, check_origin


def main() -> int:
    """Check where our packages come from, then run the command line."""
    try:
        check_origin()
    except OriginError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    from search.cli.main import main as run_command_line

    return run_command_line()


if __name__ == "__main__":
    sys.exit(main())
