"""What a report page is made of: rows, pictures, heat maps, charts, and the page itself."""
