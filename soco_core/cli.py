"""`soco`: one command a stage."""
