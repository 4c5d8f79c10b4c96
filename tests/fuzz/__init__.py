"""Fuzzing of what reads other people's files: specs, networks, images.

The property, for any bytes: a value or an error of the family whose text says what, where and how
to mend it; never another exception, a crash, a hang, memory beyond a limit, a write outside the
working folder, or foreign code that runs. Inputs that broke it once are kept in `corpus/` and
replayed by `make test`; `python -m tests.fuzz --help` says how to look for more.
"""
