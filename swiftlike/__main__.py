"""`python -m swiftlike`, the same as the `swiftlike` command."""

from swiftlike.cli.main import entry

if __name__ == "__main__":
    entry()
