"""Figures of a run, of a model on data, and of an epsilon scan (needs matplotlib)."""
