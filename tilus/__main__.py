"""`python -m tilus` is the `tilus` command."""

from tilus.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
