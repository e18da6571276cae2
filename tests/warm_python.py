"""A Python interpreter that has imported its heavy packages already: a fresh process in milliseconds.

Importing TensorFlow takes four seconds of CPU, all that a stage imports ten, and dozens of tests need a process of their
own: one that knows TensorFlow and nothing of this project, or one that runs the command line. `started` starts a server
in isolated mode that imports the modules that it is given and nothing else, and yields an executable to use where the
path of a Python interpreter is expected. Each call of it is served by a fork of the server: a process and a session of
its own, with its own arguments, folder, environment and streams. TensorFlow's runtime, its threads included, starts at
the first operation, which the server never runs; every fork starts its own.

Understands `warm_python [-I] SCRIPT ARGUMENT...` and `warm_python -c CODE ARGUMENT...`.
"""

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def started(folder, modules, environment):
    """Start a server that has imported `modules`; yield the executable's path, in `folder`; stop the server in the end."""
    address = folder / "socket"
    client = folder / "warm_python"
    client.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -IS "{__file__}" call "{address}" "$@"\n'
    )
    client.chmod(0o755)
    command = [sys.executable, "-I", __file__, "serve", str(address), *modules]
    server = subprocess.Popen(
        command, env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdout.readline() == b"ready\n", "the server's standard error says why"
    yield client
    server.stdin.close()  # the server ends at the end of its standard input, also when this process is killed
    server.wait(30)
    server.stdout.close()


def serve(address, *modules):
    """Fork for each connection until standard input ends."""
    for name in modules:
        __import__(name)
    # The forks that answer are not waited for: without this they would stay as zombies.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(Path(address).parent)  # the address of a socket has at most 107 bytes
        listening.bind(Path(address).name)
        listening.listen()
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([sys.stdin, listening], [], [])
            if sys.stdin in ready:
                return
            connection, _ = listening.accept()
            with connection:
                if os.fork() == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _answer(connection, listening)
                    os._exit(0)


def _answer(connection, listening):
    """Run one command line in a fork, and tell the caller how it ended."""
    size = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
    head, streams, _, _ = socket.recv_fds(connection, size, 3)
    message = head + connection.recv(size - len(head), socket.MSG_WAITALL)
    child = os.fork()
    if child == 0:
        # A command may kill its process group, which must not be the server's.
        os.setsid()
        listening.close()
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os._exit(_run(**json.loads(message)))
    for stream in streams:
        os.close(stream)
    status = os.waitpid(child, 0)[1]
    connection.sendall(status.to_bytes(4, "big"))


def _run(arguments, folder, environment):
    """Do in this fork what an interpreter does with a command line; returns the exit code."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    isolated = arguments[0] == "-I"
    code, arguments = (
        (arguments[1], ["-c", *arguments[2:]])
        if arguments[0] == "-c"
        else (None, arguments[isolated:])
    )
    sys.argv[:] = arguments
    try:
        if code is not None:
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        else:
            if not isolated:
                sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
            runpy.run_path(arguments[0], run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def call(address, *arguments):
    """Have the server run a command line with this process's folder, environment and streams, and end as it ends."""
    given = {"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    message = json.dumps(given).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        os.chdir(Path(address).parent)  # as above
        connection.connect(Path(address).name)
        connection.sendall(len(message).to_bytes(4, "big"))
        sent = socket.send_fds(connection, [message], [0, 1, 2])
        connection.sendall(message[sent:])
        status = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
    if os.WIFSIGNALED(status):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    sys.exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    (serve if sys.argv[1] == "serve" else call)(*sys.argv[2:])
