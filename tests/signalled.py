"""A process with a worker of Ray's that is sent SIGTERM, of which it has a handler; for a test of its output."""

import os
import signal

from rays import crew_of

from gepa_loop.cluster.piece import Piece

if __name__ == "__main__":
    import chores

    signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
    with crew_of(1) as crew:
        crew.ask(Piece("a", chores.where, {}))()
        os.kill(os.getpid(), signal.SIGTERM)
        crew.ask(Piece("b", chores.where, {}))()
