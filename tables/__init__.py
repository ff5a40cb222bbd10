"""What is remembered of a symbol: its order book and windows, as one row of int64, live and stored."""
