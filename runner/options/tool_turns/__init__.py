"""The option tool_turns: task=tool_turns plays scenarios in which a model calls tools over several turns."""
