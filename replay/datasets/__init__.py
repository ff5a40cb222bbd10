"""Datasets: what an archive becomes for training, from its recipe to its manifest."""
