"""MLflow: one parent run per pipeline run, one child run per stage.

Tracking mirrors the result directories; it is never the source of anything. A stage that found its result whole under
a new pipeline run is shown there too, marked as reused. A server that is away or does not answer never stops a stage
nor slows it: what it did not get is kept in the result directory, and delivered later.
"""

from soco_core.tracking.context import (
    TrackingContext,
    default_store,
    end_pipeline_run,
    resume_pipeline_run,
    start_pipeline_run,
)
from soco_core.tracking.server import check_tracking_uri, quiet_mlflow, without_password
from soco_core.tracking.tracker import Tracker

__all__ = [
    "Tracker",
    "TrackingContext",
    "check_tracking_uri",
    "default_store",
    "end_pipeline_run",
    "quiet_mlflow",
    "resume_pipeline_run",
    "start_pipeline_run",
    "without_password",
]
