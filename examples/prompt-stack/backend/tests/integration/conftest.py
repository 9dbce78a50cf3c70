import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.database import Base, connect
from app.main import create_app


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """A client of the application on an empty database: $DATABASE_URL, else a SQLite file."""
    engine = connect(os.environ.get("DATABASE_URL") or f"sqlite:///{tmp_path}/test.db")
    with TestClient(create_app(engine)) as test_client:
        yield test_client
    Base.metadata.drop_all(engine)
    engine.dispose()
