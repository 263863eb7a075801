"""`python -m runner.advise`."""

from runner.advise.command import entry

if __name__ == "__main__":
    entry()
