"""The option code: task=code asks for programs and runs them with tests."""
