"""The work: a file or a folder per task, and what they share (base, completing, named_job)."""
