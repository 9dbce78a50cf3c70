import pytest
from pydantic import ValidationError

from app.main import NewPrompt


@pytest.mark.parametrize("name", ["explain", "explain-2", "2nd"])
def test_names(name: str) -> None:
    assert NewPrompt(name=name, text="x").name == name


@pytest.mark.parametrize("name", ["", "-x", "Explain", "two words", "x" * 81])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        NewPrompt(name=name, text="x")


def test_text_must_not_be_empty() -> None:
    with pytest.raises(ValidationError):
        NewPrompt(name="empty", text="")
