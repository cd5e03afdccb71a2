"""Classification runs in words, tables and charts, and their page."""
