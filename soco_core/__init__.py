"""soco: object-level contrastive pretraining for detectors, end to end."""

__version__ = "0.1.0"
