"""A command run in this process, as a script calls it."""

import json

from optimum_snp.commands import main


def run(capsys, *arguments):
    """What the command prints with `--json`."""
    main([str(argument) for argument in arguments])
    return json.loads(capsys.readouterr().out)
