"""What a model's predictions for a dataset are worth: metrics, and returns after cost, per split and fold."""
