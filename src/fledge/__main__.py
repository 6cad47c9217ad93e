"""`python -m fledge` is `fledge`."""

from fledge.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
