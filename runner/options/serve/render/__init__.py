"""What a server says of itself: its interface, its metrics and its greeting, as text."""
