"""The first stage of a pipeline: its inputs checked, its recipe resolved, its parent run opened."""
