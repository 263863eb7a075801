"""Models behind OpenAI's API: requests go out over HTTP, answers come back as streams. Nothing here imports torch."""
