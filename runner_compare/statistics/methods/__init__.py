"""Statistical test methods, one per module. Each module defines subclasses of `effects.Test`."""
