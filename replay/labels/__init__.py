"""Labels: what a model is to predict. They look into the future, so they live apart from features."""
