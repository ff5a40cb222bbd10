"""The proof beside a dataset: no value depends on the future, no feature holds a label, what late data changes."""
