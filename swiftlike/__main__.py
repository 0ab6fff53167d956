"""`python -m swiftlike`, the same as the `swiftlike` command."""

from swiftlike.cli.main import main

if __name__ == "__main__":
    main()
