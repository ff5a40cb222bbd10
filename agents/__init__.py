"""What is done with events: feature kernels and the agents around them; pure and without a clock."""
