"""The methods: a module each, with one Test of `effects`. What they compute with are the modules
beside this folder."""
