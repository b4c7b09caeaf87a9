"""An engine behind an asynchronous border: in a child process, or in a thread."""
