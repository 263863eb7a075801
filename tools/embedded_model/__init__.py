"""How the embedded model and its adapters are made."""
