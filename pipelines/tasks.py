"""One way to add a component's task to the pipeline that is being built."""

from __future__ import annotations

from typing import Any


def add_task(component: Any, *, image: str, name: str = "", **arguments: Any) -> Any:
    """Add a task; KFP's own cache is off, as the result directories are the only one.

    Args:
        component: a kfp component.
        image: container image that it runs in.
        name: shown in the UI; by default the component's.
        arguments: the component's parameters.

    Returns:
        The kfp task.
    """
    task = component(**arguments).set_container_image(image).set_caching_options(False)
    return task.set_display_name(name) if name else task
