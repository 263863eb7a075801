"""One test method per module, each a Test of `effects`."""
