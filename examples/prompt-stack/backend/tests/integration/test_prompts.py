import os

from fastapi.testclient import TestClient

EXPLAIN = {"name": "explain", "text": "Explain {topic} to {reader}"}


def test_health_names_the_database(client: TestClient) -> None:
    url = os.environ.get("DATABASE_URL", "sqlite")
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "database": url.split(":")[0].split("+")[0]}


def test_create_then_show(client: TestClient) -> None:
    created = client.post("/prompts", json=EXPLAIN)
    assert created.status_code == 201
    assert created.json()["blanks"] == ["topic", "reader"]

    shown = client.get(f"/prompts/{created.json()['id']}")
    assert shown.status_code == 200
    assert shown.json() == created.json()


def test_list_is_ordered_by_name(client: TestClient) -> None:
    assert client.get("/prompts").json() == []
    for name in ("b", "c", "a"):
        client.post("/prompts", json={"name": name, "text": "x"})
    assert [prompt["name"] for prompt in client.get("/prompts").json()] == ["a", "b", "c"]


def test_a_name_is_taken_once(client: TestClient) -> None:
    assert client.post("/prompts", json=EXPLAIN).status_code == 201
    again = client.post("/prompts", json=EXPLAIN)
    assert again.status_code == 409
    assert again.json() == {"detail": "there is a prompt named explain"}
    assert len(client.get("/prompts").json()) == 1


def test_fill(client: TestClient) -> None:
    prompt = client.post("/prompts", json=EXPLAIN).json()
    path = f"/prompts/{prompt['id']}/fill"
    filled = client.post(path, json={"values": {"topic": "tides", "reader": "a child"}})
    assert filled.json() == {"text": "Explain tides to a child"}

    missing = client.post(path, json={"values": {"topic": "tides"}})
    assert missing.status_code == 422
    assert missing.json() == {"detail": "no value for {reader}"}


def test_unknown_prompt(client: TestClient) -> None:
    assert client.get("/prompts/4711").status_code == 404
    assert client.post("/prompts/4711/fill", json={}).status_code == 404


def test_bad_prompt_is_refused(client: TestClient) -> None:
    assert client.post("/prompts", json={"name": "Not A Name", "text": "x"}).status_code == 422
    assert client.get("/prompts").json() == []
