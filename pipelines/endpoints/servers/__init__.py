"""A model server on each worker machine, shared by its processes: started, watched, restarted and stopped.

The first process that uses it starts a supervisor, which starts the server and stops it when nobody uses it any more.
Users hold leases in the server's folder.
"""

__all__ = ["folder", "server", "supervisor"]
