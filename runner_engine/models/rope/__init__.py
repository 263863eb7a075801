"""rope – positions: transformers' scalings, and two coordinates for each token."""
