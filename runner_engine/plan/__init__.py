"""What is decided of a load before torch is imported: one plan, which the prediction of memory reads
and the load executes."""
