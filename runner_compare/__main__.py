"""Entry point of `python -m runner_compare`."""

from runner_compare.command import entry

if __name__ == "__main__":
    entry()
