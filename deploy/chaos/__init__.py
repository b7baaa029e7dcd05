"""Histories on real servers: a sale with faults in the middle, and a checker of all that its buyers were told."""
