"""The paper's transfer experiments by name: what each trains, on what, and how to shorten it."""
