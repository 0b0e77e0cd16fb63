"""Work that may end its process without a word, in a process of its own."""

import faulthandler
import os
import re
import resource
import traceback
from pathlib import Path


MOST_ADDRESSES = 4 * 2**30  # beyond those of the start: what needs more fails, and leaves the machine alone
MOST_SECONDS = 60  # of one step


def memory(name):
    """A line of what the system knows of this process, such as `VmRSS`, in bytes."""
    found = re.search(rf"^{name}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found.group(1))


def run_in_child(work, report):
    """Runs `work(begin)`, which tells by `begin(text)` what it is at; fails with the end of the report if it does."""
    child = os.fork()
    if child == 0:
        code = 1
        with report.open("w", buffering=1) as file:
            try:
                faulthandler.enable(file)
                limit = memory("VmSize") + MOST_ADDRESSES
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

                def begin(text):
                    file.write(f"{text}\n")
                    faulthandler.dump_traceback_later(MOST_SECONDS, exit=True, file=file)

                work(begin)
                code = 0
            except BaseException:
                traceback.print_exc(file=file)
            finally:
                file.flush()
                os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == 0, f"ended with {code}: {report.read_text()[-5000:]}"
