"""Entry point of `python -m runner_compare`."""

from runner_compare.console_script import entry

if __name__ == "__main__":
    entry()
