"""A stage's work here, or in a PyTorchJob of Kubeflow there: one interface."""

from soco_core.launch.here import Training, train_here
from soco_core.launch.job import Launcher, Work, build_job, job_name
from soco_core.launch.recipe_file import hand_over
from soco_core.launch.run import run_job
from soco_core.launch.settings import JobSettings
from soco_core.launch.waits import Waits

__all__ = [
    "JobSettings",
    "Launcher",
    "Training",
    "Waits",
    "Work",
    "build_job",
    "hand_over",
    "job_name",
    "run_job",
    "train_here",
]
