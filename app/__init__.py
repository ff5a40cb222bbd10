"""The composition roots: worker, recorder, venues, CLI, configuration and the embedded services."""
