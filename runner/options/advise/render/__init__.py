"""Text and JSON output of runner-advise: recommendations, reasons, speedups and mixes."""
