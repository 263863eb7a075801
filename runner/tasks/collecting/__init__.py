"""How the answers to a job's questions are collected: the steps of completing.py."""
