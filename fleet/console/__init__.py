"""The console shell: panels, charts, pages that are not a model list."""
