"""Measurements beside the alternatives: interleaved rounds in one run, medians and ratios."""
