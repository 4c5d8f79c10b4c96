"""Calibration: numbers only. Ranges, histograms, scales, images; never a graph."""
