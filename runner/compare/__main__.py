"""`python -m runner.compare`."""

from runner.compare.command import entry

if __name__ == "__main__":
    entry()
