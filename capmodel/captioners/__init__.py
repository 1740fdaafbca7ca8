"""Captioners: processors that caption images on workers."""
