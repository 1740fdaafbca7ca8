"""Requests to an endpoint of OpenAI's API: their body, their pace, what is repeated, and what replies mean."""

__all__ = ["addresses", "body", "chat", "pace", "replies", "tries"]
