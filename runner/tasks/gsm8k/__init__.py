"""The task gsm8k: word problems with reliability checks and early stopping."""
