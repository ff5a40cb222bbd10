"""What a worker does: a Faust app per role, each in a consumer group of its own, so that none holds back another."""
