"""The back end of Prompt-Stack: prompts with blanks, kept in a database, filled in on request."""
