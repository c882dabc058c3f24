"""Servers that tests start and end: MLflow's, in one process or as users run it, and PostgreSQL's."""

from __future__ import annotations

import http.client
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

MLFLOW_PROGRAM = """
import os, sys
folder, port = sys.argv[1:]
os.environ.update({
    "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
    "_MLFLOW_SERVER_ARTIFACT_DESTINATION": f"{folder}/artifacts",
    "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
})
from mlflow.server import app, handlers
handlers.initialize_backend_stores(f"sqlite:///{folder}/mlflow.db", None, "mlflow-artifacts:/")
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(port), app, threaded=True)
"""
"""MLflow's own server without the processes around it, which cost seconds and memory."""
BOUND = """
import ctypes, os, sys
number, user, group = map(int, sys.argv[1:4])
if user:
    os.setgroups([]), os.setgid(group), os.setuid(user)
ctypes.CDLL(None).prctl(1, number)
os.execvp(sys.argv[4], sys.argv[4:])
"""
"""Runs a command, as another user if told so, and ends it by a signal when the tests end, however they do."""
START_SECONDS = 300


def bound(number: signal.Signals, command: list[str], user: pwd.struct_passwd | None = None) -> list[str]:
    """Return a command that gets a signal when the tests end."""
    ids = (str(user.pw_uid), str(user.pw_gid)) if user else ("0", "0")
    return [sys.executable, "-c", BOUND, str(int(number)), *ids, *command]


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass
class MlflowServer:
    """A real MLflow server in a process of its own, with a store that outlives it."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """What MLFLOW_TRACKING_URI is set to."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """All that the server said."""
        return (self.folder / "server.log").read_text()

    def command(self) -> list[str]:
        """Return what is run."""
        return [sys.executable, "-c", MLFLOW_PROGRAM, str(self.folder), str(self.port)]

    def environment(self) -> dict[str, str]:
        """Return the server's environment."""
        return dict(os.environ)

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self.process is None:
            with (self.folder / "server.log").open("ab") as log:
                self.process = subprocess.Popen(
                    bound(signal.SIGTERM, self.command()),
                    stdout=log,
                    stderr=log,
                    env=self.environment(),
                    start_new_session=True,
                )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.1)

    def stop(self) -> None:
        """End it, and what it started; connections are refused from now on."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def hang(self) -> None:
        """Let it accept connections and never answer."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End :meth:`hang`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@dataclass
class ClusterMlflow(MlflowServer):
    """The command ``mlflow server`` as a cluster runs it: runs in PostgreSQL, artifacts on S3 behind the server."""

    artifacts: str = ""
    """S3 URI; only the server has its credentials."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Environment that gives it the database's password and S3's credentials and endpoint."""
    store: str = ""
    """URI of the database, without a password."""

    def command(self) -> list[str]:
        """See :class:`MlflowServer`."""
        options = ["--backend-store-uri", self.store, "--artifacts-destination", self.artifacts, "--workers", "1"]
        return [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), *options]

    def environment(self) -> dict[str, str]:
        """See :class:`MlflowServer`; jobs of its own would be eight processes more."""
        return {**os.environ, **self.secrets, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@dataclass
class PostgresServer:
    """A PostgreSQL server with a database of its own, which is gone with its folder.

    Args:
        folder: empty; that of nobody but the server.
        port: a free one.
        password: of the user ``soco``.
    """

    folder: Path
    port: int
    password: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The database without its password, which PGPASSWORD gives."""
        # SQLAlchemy takes another driver for plain `postgresql`.
        return f"postgresql+psycopg2://soco@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Make the database and start the server."""
        binaries = postgres_binaries()
        assert binaries is not None
        secret = self.folder / "password"
        secret.write_text(self.password)
        # PostgreSQL refuses to run as root.
        user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        for path in (self.folder, secret) if user else ():
            os.chown(path, user.pw_uid, user.pw_gid)
        data = str(self.folder / "data")
        make = [f"{binaries}/initdb", "-D", data, "-U", "soco", "-A", "scram-sha-256", f"--pwfile={secret}"]
        make += ["-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(bound(signal.SIGINT, make, user), check=True, capture_output=True, cwd=self.folder)
        secret.unlink()
        settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        run = [f"{binaries}/postgres", "-D", data, "-p", str(self.port), *(f"-c{item}" for item in settings)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(bound(signal.SIGINT, run, user), stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + START_SECONDS
        while not self._accepts():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def stop(self) -> None:
        """End it at once, whoever is connected."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()
            self.process = None

    def rows(self) -> list[str]:
        """Return all that the database holds, a row a line."""
        import psycopg2
        from psycopg2 import sql

        found = []
        with psycopg2.connect(
            host="127.0.0.1", port=self.port, user="soco", dbname="postgres", password=self.password
        ) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            for (table,) in cursor.fetchall():
                cursor.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table)))
                found += [f"{table}: {row}" for (row,) in cursor.fetchall()]
        connection.close()
        return found

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def postgres_binaries() -> str | None:
    """Return the folder of PostgreSQL's programs, or None; Debian has them outside the PATH."""
    found = shutil.which("initdb")
    if found is not None:
        return str(Path(found).resolve().parent)
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return str(folders[-1].parent) if folders else None
