"""The command line: `main` dispatches, one module per command does the work.

A command is a module `homegrown.cli.<name>` with `SUMMARY: str`, one line for the list of commands, and
`run(argv: list[str]) -> int`, which takes the arguments after the command's name and returns the exit status. It is
entered in the table of `main`. What the user can put right is raised as a `homegrown.config.UserError`.
"""
