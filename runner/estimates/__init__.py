"""Estimates a job's memory and time before the job runs. torch is not imported."""
