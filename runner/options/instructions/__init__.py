"""The option instructions: task=instructions checks whether answers follow verifiable instructions."""
