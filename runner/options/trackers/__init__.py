"""Experiment trackers besides MLflow: Trackio and Weights & Biases."""
