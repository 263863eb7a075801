"""What runner-advise prints: recommendations, reasons, gains and mixes, as text and as JSON."""
