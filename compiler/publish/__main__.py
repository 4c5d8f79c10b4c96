"""`python -m compiler.publish`; see `compiler.publish.command`."""

from compiler import cli
from compiler.publish.command import parser, run

if __name__ == "__main__":
    cli.main(parser(), run)
