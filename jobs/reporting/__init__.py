"""The report page: rows, pictures, charts, and the page itself."""
