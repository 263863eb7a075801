"""Models behind OpenAI's API: requests are sent over HTTP, and answers are streamed. Nothing here
imports torch."""
