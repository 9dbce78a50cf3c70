import pytest

from app.template import MissingValue, blanks, fill


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("no blanks", []),
        ("Explain {topic} to {reader}", ["topic", "reader"]),
        ("{topic}, again {topic}", ["topic"]),
        ("kept: {{topic}}", []),
        ("not a name: {Topic} {1st} {}", []),
        ("{{{topic}}}", ["topic"]),
    ],
)
def test_blanks(text: str, names: list[str]) -> None:
    assert blanks(text) == names


def test_fill_replaces_every_blank() -> None:
    text = "Explain {topic} to {reader}. {topic}!"
    assert fill(text, {"topic": "tides", "reader": "a child"}) == "Explain tides to a child. tides!"


def test_fill_keeps_doubled_braces() -> None:
    assert fill('{{"answer": "{word}"}}', {"word": "yes"}) == '{"answer": "yes"}'


def test_fill_does_not_fill_values() -> None:
    assert fill("{outer}", {"outer": "{inner}", "inner": "no"}) == "{inner}"


def test_fill_names_the_missing_value() -> None:
    with pytest.raises(MissingValue, match=r"no value for \{reader\}"):
        fill("Explain {topic} to {reader}", {"topic": "tides"})
