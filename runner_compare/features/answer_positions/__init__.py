"""Compares loss and divergence by generated position, and finds from where on the divergence grows."""
