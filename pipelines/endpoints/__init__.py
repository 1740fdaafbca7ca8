"""Captions by a model behind an endpoint of OpenAI's API: prompts, requests, their pace, and answers kept at once."""

__all__ = [
    "answers",
    "client",
    "copied",
    "json_schema",
    "links",
    "pictures",
    "plan",
    "processor",
    "prompts",
    "servers",
]
