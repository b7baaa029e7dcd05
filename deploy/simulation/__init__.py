"""The whole pipeline in one process on fakes, under a seeded scheduler: every run is a seed, every seed a run."""
