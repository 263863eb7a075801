"""Text and pictures about a team of agents: notes, protections and its graph."""
