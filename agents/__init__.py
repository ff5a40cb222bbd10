"""What is done with events: the pure agents, their ports, and their registration on Faust."""
