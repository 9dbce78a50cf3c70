import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import make_url

from app.database import Base, connect
from app.main import create_app


def ensure_database(url: str) -> None:
    """Creates the database that a PostgreSQL URL names: a service begins with only `postgres`."""
    target = make_url(url)
    if not target.drivername.startswith("postgresql") or not target.database:
        return
    admin = target.set(drivername="postgresql", database="postgres")
    with psycopg.connect(admin.render_as_string(hide_password=False), autocommit=True) as server:
        known = server.execute("SELECT 1 FROM pg_database WHERE datname = %s", [target.database])
        if known.fetchone() is None:
            server.execute(
                psycopg.sql.SQL("CREATE DATABASE {}").format(
                    psycopg.sql.Identifier(target.database)
                )
            )


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """A client of the application on an empty database: $DATABASE_URL, else a SQLite file."""
    url = os.environ.get("DATABASE_URL") or f"sqlite:///{tmp_path}/test.db"
    ensure_database(url)
    engine = connect(url)
    with TestClient(create_app(engine)) as test_client:
        yield test_client
    Base.metadata.drop_all(engine)
    engine.dispose()
