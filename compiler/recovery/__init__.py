"""Accuracy recovery: equalization and weight rounding in closed form, and a threshold search."""
