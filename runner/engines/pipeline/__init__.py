"""The pipeline engine: the parts of a split over several processes."""
