"""The HTTP interface. ``uvicorn app.main:create_app --factory`` serves it."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, status
from pydantic import BaseModel, ConfigDict, Field, computed_field
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import template
from app.database import Prompt, connect


class NewPrompt(BaseModel):
    name: str = Field(min_length=1, max_length=80, pattern=r"^[a-z0-9][a-z0-9-]*$")
    text: str = Field(min_length=1, max_length=20_000)


class SavedPrompt(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    text: str
    created_at: datetime

    @computed_field
    def blanks(self) -> list[str]:
        return template.blanks(self.text)


class Values(BaseModel):
    values: dict[str, str] = {}


class Filled(BaseModel):
    text: str


class Health(BaseModel):
    status: str
    database: str


def session(request: Request) -> Iterator[Session]:
    with Session(request.app.state.engine) as open_session:
        yield open_session


Database = Annotated[Session, Depends(session)]


def create_app(engine: Engine | None = None) -> FastAPI:
    """The application on engine; without one, on the database that the environment names."""
    app = FastAPI(title="Prompt-Stack")
    app.state.engine = engine or connect()

    @app.get("/health")
    def health(database: Database) -> Health:
        database.execute(text("select 1"))
        return Health(status="ok", database=app.state.engine.dialect.name)

    @app.post("/prompts", status_code=status.HTTP_201_CREATED)
    def create(new: NewPrompt, database: Database) -> SavedPrompt:
        prompt = Prompt(name=new.name, text=new.text)
        database.add(prompt)
        try:
            database.commit()
        except IntegrityError as error:
            raise HTTPException(
                status.HTTP_409_CONFLICT, f"there is a prompt named {new.name}"
            ) from error
        return SavedPrompt.model_validate(prompt)

    @app.get("/prompts")
    def index(database: Database) -> list[SavedPrompt]:
        prompts = database.scalars(select(Prompt).order_by(Prompt.name))
        return [SavedPrompt.model_validate(prompt) for prompt in prompts]

    @app.get("/prompts/{prompt_id}")
    def show(prompt_id: int, database: Database) -> SavedPrompt:
        return SavedPrompt.model_validate(find(prompt_id, database))

    @app.post("/prompts/{prompt_id}/fill")
    def fill(prompt_id: int, given: Values, database: Database) -> Filled:
        prompt = find(prompt_id, database)
        try:
            return Filled(text=template.fill(prompt.text, given.values))
        except template.MissingValue as error:
            raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, str(error)) from error

    return app


def find(prompt_id: int, database: Session) -> Prompt:
    prompt = database.get(Prompt, prompt_id)
    if prompt is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"no prompt {prompt_id}")
    return prompt
