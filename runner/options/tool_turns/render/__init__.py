"""Texts that task=tool_turns prints or sends."""
