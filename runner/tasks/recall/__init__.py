"""The task recall: something is hidden in a long text, asked for at its end, and checked
exactly."""
