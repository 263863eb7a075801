"""The feature `tool_calls` of the comparison."""
