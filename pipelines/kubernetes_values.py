"""What Kubernetes takes as cores, memory, names and places, said in one line before it is asked."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

CPUS = re.compile(r"\d+m?|\d*\.\d+")
MEMORY = re.compile(r"([1-9]\d*)([MGT]i?)")
BYTES = {"M": 10**6, "G": 10**9, "T": 10**12, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|PRIVATE|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)


def check_cpus(value: str) -> str:
    """Return cores as Kubernetes and kfp write them.

    Raises:
        ValueError: they are not.
    """
    if not CPUS.fullmatch(value) or float(value.rstrip("m")) == 0:
        raise ValueError(f"{value}: give cores, such as 4, 0.5 or 500m (thousandths)")
    return value


def check_memory(value: str) -> str:
    """Return a size as Kubernetes and kfp write it.

    Raises:
        ValueError: it is none.
    """
    if not MEMORY.fullmatch(value):
        raise ValueError(f"{value}: give a whole number with its unit, such as 8Gi or 900Mi")
    return value


def bytes_of(memory: str) -> int:
    """Return the bytes of a size that :func:`check_memory` took."""
    match = MEMORY.fullmatch(memory)
    assert match is not None
    return int(match[1]) * BYTES[match[2]]


def check_name(value: str) -> str:
    """Return the name of an object in Kubernetes.

    Raises:
        ValueError: it cannot be one.
    """
    if not NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no name in Kubernetes; write small letters, digits, - and .")
    return value


def check_place(value: str) -> str:
    """Return where a volume can be mounted, without a slash at its end.

    Raises:
        ValueError: it is no absolute path.
    """
    if not re.fullmatch(r"/[^:\s]+", value) or ".." in value.split("/"):
        raise ValueError(f"{value!r} is no place to mount; give an absolute path, such as /data")
    return value.rstrip("/")


def check_variable(value: str) -> str:
    """Return the name of an environment variable.

    Raises:
        ValueError: it is none.
    """
    if not VARIABLE.fullmatch(value):
        raise ValueError(f"{value!r} is no name of an environment variable")
    return value


def refuse_secret_value(name: str) -> None:
    """Refuse an environment variable whose name says that its value is a secret: a compiled pipeline would hold it.

    Raises:
        ValueError: it does.
    """
    if SECRET.search(name):
        raise ValueError(
            f"{name} looks like a secret, which a compiled pipeline would show; put it into a secret of "
            "Kubernetes, and name that by --secret"
        )


def _as_text(value: Any) -> Any:
    """A number of cores is as well written without quotes."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Cpus = Annotated[str, BeforeValidator(_as_text), AfterValidator(check_cpus)]
Memory = Annotated[str, AfterValidator(check_memory)]
KubernetesName = Annotated[str, AfterValidator(check_name)]
MountPath = Annotated[str, AfterValidator(check_place)]
Variable = Annotated[str, AfterValidator(check_variable)]
