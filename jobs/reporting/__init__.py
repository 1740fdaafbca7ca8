"""The report page: rows, pictures, heat maps, charts, and the page itself."""
