"""What an error says as one line."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader, Dataset

from soco_core.errors import InputError, one_line


class Broken(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise InputError("a.jpg: unreadable; restore it")


def test_lines_are_joined() -> None:
    assert one_line(InputError("a.pth: bad;\n  replace it")) == "a.pth: bad; replace it"


def test_an_unexpected_error_is_named_by_its_type() -> None:
    assert one_line(ZeroDivisionError("division by zero")) == "ZeroDivisionError: division by zero"
    assert one_line(KeyError()) == "KeyError: no message"


def test_an_error_from_a_loading_process_is_the_error_itself() -> None:
    with pytest.raises(InputError) as caught:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert "Traceback" in str(caught.value)
    assert one_line(caught.value) == "a.jpg: unreadable; restore it"
