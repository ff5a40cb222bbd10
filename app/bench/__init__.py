"""Benchmarks: the engine against its oracle, a naive version and the peers, all in one run."""
