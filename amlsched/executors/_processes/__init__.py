"""The pool of processes behind `with_processes`."""
