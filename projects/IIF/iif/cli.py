"""The ``iif`` command: how faults are told; `iif.commands` has the parser and what it does."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from iif.commands import COMMANDS
from iif.commands.arguments import check_outputs, inputs_of
from iif.commands.parser import parse
from iif.errors import InputError
from iif.files import os_error_text
from iif.outputs import protect

# Words of a remedy in an error of the library -> the flag that does it.
_REMEDIES = {
    "training annotations": "--train-json",
    "annotation is exhaustive": "--exhaustive",
    "annotation file that the runs were evaluated on": "--gt",
    "lower recall": "--recall",
    "as the IoU type": "--iou-type",
    "names are needed": "--names",
    "image folder": "--images",
    "output folder": "--out",
    "replace it": "--overwrite",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    It is 2 for a fault in the input or of the file system, 130 after Ctrl-C; both in one line.
    """
    # One plain line: where in the program a warning arises does not help a user.
    warnings.formatwarning = lambda message, *_, **__: f"iif: warning: {message}\n"
    # Detectron2 and torchvision script functions while they are imported; a user cannot change it.
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
    args = parse(sys.argv[1:] if argv is None else argv)
    command = COMMANDS[args.command]
    try:
        command.check(args)
        with protect(inputs_of(command.arguments, args)):
            check_outputs(command.arguments, args)
            status = command.run(args)
        sys.stdout.flush()
        return status or 0
    except InputError as error:
        flags = [flag for words, flag in _REMEDIES.items() if words in str(error)]
        known = [flag for flag in flags if flag[2:].replace("-", "_") in args]
        hint = f" ({', '.join(known)})" if known else ""
        print(f"iif {args.command}: error: {error}{hint}", file=sys.stderr)
        return 2
    except (FloatingPointError, ConnectionAbortedError) as error:  # a training cannot go on
        print(f"iif {args.command}: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe; discard what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"iif {args.command}: error: {os_error_text(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"iif {args.command}: interrupted; {command.after_interrupt}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
