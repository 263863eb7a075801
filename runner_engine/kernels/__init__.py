"""The compiled half of the local engine's attention."""
