"""The task tools: offer functions, and match the calls in the answers with the expected calls."""
