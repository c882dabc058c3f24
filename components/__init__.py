"""Kubeflow components: a folder each, a thin call into soco_core each.

A component's source is embedded in the compiled pipeline, so it imports soco_core inside its function.
It has no `from __future__ import annotations`: kfp reads the annotations as objects. Parameters carry
result directories; kfp reports a component as succeeded even if an output artifact is missing.
"""

IMAGE = "soco:latest"
"""Default image of the stages; `--image` of a pipeline names another."""
