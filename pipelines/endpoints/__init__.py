"""Captions by a model behind an endpoint of OpenAI's API: prompts, requests, their pace, and answers kept at once."""

__all__ = [
    "answers",
    "chat",
    "copied",
    "links",
    "pace",
    "pictures",
    "plan",
    "processor",
    "prompts",
    "schemas",
    "servers",
]
