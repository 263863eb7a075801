"""The load plan of a model, made before torch is imported. Memory prediction and loading follow the plan."""
