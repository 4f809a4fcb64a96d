"""Figures and tables from a run's records; nothing here needs a model."""
