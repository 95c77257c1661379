"""The relays that are compared: how each is configured, started and ended.

All are given the same: one thread on one CPU, no access log, room for 9,000 sessions, and apart from that what
their authors ship. A relay is started anew for each measurement, in a session of its own (setsid), by which the
load finds all of its processes."""

import os
import shutil
import signal
import subprocess
import time

import machine

SESSIONS_MAX = 9_300
PEERS = ("haproxy", "haproxy-splice", "haproxy-splice-1m", "nginx", "socat", "go")


class Relay:
    """One of them. `connections_max` is what it can reasonably be asked to carry, `limit` why not more, `alone` whether it is one thread,
    so that waiting long for its CPU means that something else disturbed the measurement."""

    connections_max = SESSIONS_MAX
    limit = ""
    alone = True
    once = False  # the first round is enough
    environment = {}

    def __init__(self, name, folder):
        self.name = name
        self.folder = folder
        self.process = None

    def missing(self):
        """Why it cannot be run here, or None."""
        return None

    def command(self, port, backend_port):
        raise NotImplementedError

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        return path

    def start(self, cpu, backend_port):
        """Returns the port it listens on, once it does."""
        port = machine.next_port()
        log = open(os.path.join(self.folder, f"{self.name}.log"), "ab")
        with log:
            self.process = subprocess.Popen(
                self.command(port, backend_port), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **self.environment}, start_new_session=True, preexec_fn=machine.tie_to_us(cpu))
        deadline = time.monotonic() + 10
        while not machine.is_listening(port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.name} does not listen; see {log.name}")
            time.sleep(0.005)
        return port

    @property
    def session(self):
        return self.process.pid if self.process else 0

    def stop(self):
        """Nothing of it is left afterwards: what does not go by itself within a second is killed."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            pass
        for process in machine.processes_of(self.process.pid):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.process = None


class Sluice(Relay):
    def __init__(self, name, folder, program, engine):
        super().__init__(name, folder)
        self.program = os.path.abspath(program)
        self.engine = engine

    def missing(self):
        return None if os.access(self.program, os.X_OK) else f"{self.program} is not there"

    def command(self, port, backend_port):
        return [self.program, "run", "-c", self.write(f"{self.name}.yaml", f"""\
workers: 1
engine: {self.engine}
access_log: off
log: {{level: warning}}
drain_timeout: 1s
listeners:
  - bind: 127.0.0.1:{port}
    to: 127.0.0.1:{backend_port}
""")]


class Haproxy(Relay):
    """Two descriptors for each session and two for each pipe have to fit into 20,000. With splice it is told to: left to
    itself (option splice-auto) HAProxy 2.6 never spliced a byte in any of our workloads (strace)."""

    def __init__(self, name, folder, splice=False, pipe_bytes=None):
        super().__init__(name, folder)
        self.splice = splice
        self.pipe_bytes = pipe_bytes

    def missing(self):
        return None if shutil.which("haproxy") else "haproxy is not installed"

    def command(self, port, backend_port):
        return ["haproxy", "-db", "-q", "-f", self.write(f"{self.name}.cfg", f"""\
global
    nbthread 1
    maxconn {SESSIONS_MAX}
    {"maxpipes 512" if self.splice else ""}
    {f"tune.pipesize {self.pipe_bytes}" if self.pipe_bytes else ""}
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    {"option splice-request" if self.splice else ""}
    {"option splice-response" if self.splice else ""}
frontend clients
    bind 127.0.0.1:{port} backlog 4096
    default_backend servers
backend servers
    server one 127.0.0.1:{backend_port}
""")]


class Nginx(Relay):
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"

    def missing(self):
        if not shutil.which("nginx"):
            return "nginx is not installed"
        return None if os.path.exists(self.module) else "nginx has no stream module"

    def command(self, port, backend_port):
        return ["nginx", "-p", self.folder, "-e", "stderr", "-c", self.write("nginx.conf", f"""\
load_module {self.module};
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile {2 * SESSIONS_MAX + 200};
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections {2 * SESSIONS_MAX + 100}; }}
stream {{
    access_log off;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        proxy_pass 127.0.0.1:{backend_port};
        proxy_timeout 1h;
    }}
}}
""")]


class Socat(Relay):
    connections_max = 64
    limit = "a process for each connection"
    alone = False

    def missing(self):
        return None if shutil.which("socat") else "socat is not installed"

    def command(self, port, backend_port):
        return ["socat", "-t", "30", f"TCP4-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,backlog=4096,nodelay",
                f"TCP4:127.0.0.1:{backend_port},nodelay"]


class Go(Relay):
    connections_max = 3_000
    limit = "six descriptors a session (io.Copy keeps a pipe for each direction): 20,000 are not enough"
    alone = False  # its runtime has threads of its own
    environment = {"GOMAXPROCS": "1"}

    def __init__(self, name, folder, source):
        super().__init__(name, folder)
        self.source = source
        self.program = os.path.join(folder, "go-relay")

    def missing(self):
        if not shutil.which("go"):
            return "go is not installed"
        if not os.path.exists(self.program):
            environment = {**os.environ, "GOCACHE": os.path.join(self.folder, "go-cache"), "GOFLAGS": "-mod=mod"}
            subprocess.run(["go", "build", "-o", self.program, self.source], check=True, env=environment)
        return None

    def command(self, port, backend_port):
        return [self.program, f"127.0.0.1:{port}", f"127.0.0.1:{backend_port}"]


class Nothing(Relay):
    """No relay: the clients are connected to the backend itself."""

    once = True

    def start(self, cpu, backend_port):
        return backend_port


def all_relays(folder, sluices, go_source):
    """By name, in the order of the tables. `sluices` are (label, path)."""
    relays = []
    for label, path in sluices:
        relays.append(Sluice(label, folder, path, "io_uring"))
        relays.append(Sluice(f"{label}-epoll", folder, path, "epoll"))
    relays += [
        Haproxy("haproxy", folder),
        Haproxy("haproxy-splice", folder, splice=True),
        Haproxy("haproxy-splice-1m", folder, splice=True, pipe_bytes=1_048_576),
        Nginx("nginx", folder),
        Socat("socat", folder),
        Go("go", folder, go_source),
        Nothing("none", folder),
    ]
    return {relay.name: relay for relay in relays}
