"""Components to sources, as a job: inputs, boxes, islands, merge, tables, and why."""
