"""Reader of lm-evaluation-harness results."""
