"""Text output about models on servers. Nothing is computed here."""
