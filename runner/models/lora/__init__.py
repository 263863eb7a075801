"""lora – adapters put on a loaded base, and converted between their formats."""
