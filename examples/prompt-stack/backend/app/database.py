"""The table of prompts and the way to it.

SQLite unless told otherwise, so that the application starts with no service beside it; any
PostgreSQL URL works as well, and is spoken to with psycopg.
"""

import os
from datetime import UTC, datetime

from sqlalchemy import DateTime, Engine, StaticPool, String, Text, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DEFAULT_URL = "sqlite:///prompt-stack.db"


class Base(DeclarativeBase):
    pass


class Prompt(Base):
    __tablename__ = "prompts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    text: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), default=lambda: datetime.now(UTC)
    )


def connect(url: str | None = None) -> Engine:
    """An engine for url, else $DATABASE_URL, else a SQLite file, with the table in place."""
    url = url or os.environ.get("DATABASE_URL") or DEFAULT_URL
    if url in ("sqlite://", "sqlite:///:memory:"):
        # A database in memory lives as long as its connection: all threads share one.
        engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        engine = create_engine(url, pool_pre_ping=True)
    Base.metadata.create_all(engine)
    return engine
