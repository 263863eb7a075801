"""The task gsm8k: word problems, how far the score can be trusted, and when a comparison is
decided."""
