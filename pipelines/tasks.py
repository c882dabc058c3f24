"""One way to add a component's task to the pipeline that is being built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.pods import Kind, Pods


@dataclass(frozen=True)
class Tasks:
    """Adds tasks with the image, and the pod, of their kind."""

    image: str
    """Container image of the stages."""
    gpu_image: str = ""
    """That of the stages that train; empty: the same."""
    pods: Pods | None = None
    """What the stages' pods are given; None on this machine, where there are none."""

    def add(self, component: Any, *, kind: Kind = "cpu", label: str = "", **arguments: Any) -> Any:
        """Add a task; KFP's own cache is off, as the result directories are the only one.

        Args:
            component: a kfp component.
            kind: of pod that it runs in.
            label: shown in the UI; by default the component's.
            arguments: the component's parameters.

        Returns:
            The kfp task.
        """
        image = (self.gpu_image or self.image) if kind in {"gpu", "pretrain"} else self.image
        task = component(**arguments).set_container_image(image).set_caching_options(False)
        if label:
            task.set_display_name(label)
        return self.pods.prepare(task, kind) if self.pods else task
