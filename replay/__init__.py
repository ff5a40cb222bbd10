"""HOW the past is run again: archive, driver, parity, leak check, labels, splits, datasets."""
