"""The face of a dataset: one HTML page that shows what is in it and what was proven."""
