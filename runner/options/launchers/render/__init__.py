"""Texts about grids on other machines and about hyperparameter searches."""
