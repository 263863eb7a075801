"""rope – positions: scalings that transformers has, and two coordinates for each token."""
