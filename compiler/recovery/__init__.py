"""Accuracy recovery: equalization, weight rounding and threshold search, all in closed form."""
