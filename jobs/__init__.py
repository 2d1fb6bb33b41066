"""What a user asks for: one module a job, and the command line."""
