"""Pipelines over the components: each compiles, runs here with --local, or submits with --submit."""
