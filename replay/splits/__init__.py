"""Splits: which rows train, tune and test a model, so that none of them tells what another is to predict."""
