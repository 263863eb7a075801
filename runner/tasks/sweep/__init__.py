"""The task sweep: the cells, and what earlier starts have measured of them."""
