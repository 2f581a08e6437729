"""Real nginx and HAProxy, with the configurations of tuning/balancers, in front of real gateways."""

import contextlib
import http.server as http_server
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from conftest import ROOT, TUNING, run, uncommented
from gateway import free_port, http, wait_until

PROXIES = '[proxies]\ntrusted = ["127.0.0.1"]\n'
BALANCERS = ["nginx", "haproxy"]


def expand(text, gateways):
    """A reference configuration with our gateways in place of its two."""
    ports = [str(gateway.port) for gateway in gateways]
    lines = []
    for line in text.splitlines():
        found = re.search(r"127\.0\.0\.1:80(80|81)", line)
        if found and not line.lstrip().startswith("#"):
            number = int(found[1]) - 80
            if number < len(ports):
                lines.append(line.replace(found[0], f"127.0.0.1:{ports[number]}"))
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


class Balancer:
    """A running balancer: its public port, and a reload."""

    def __init__(self, kind, folder, gateways, change=lambda text: text):
        self.kind, self.folder, self.port = kind, pathlib.Path(folder), free_port()
        name = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[kind]
        self.file = self.folder / name
        self.gateways, self.change = gateways, change
        self.source = (TUNING / "balancers" / name).read_text()
        self.write()
        if kind == "nginx":
            command = ["nginx", "-p", str(self.folder), "-c", str(self.file), "-g", "daemon off;"]
        else:
            command = ["haproxy", "-W", "-db", "-f", str(self.file)]
        self.log = open(self.folder / "log", "a", encoding="utf-8")
        # A group of its own, so that no worker is left whatever becomes of the master.
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, start_new_session=True)
        self.url = f"ws://127.0.0.1:{self.port}"
        try:
            wait_until(self.up, 30, f"{kind} in front of ready gateways")
        except BaseException:
            self.close()
            raise

    def write(self):
        """The reference configuration with these gateways and this port; limits as small as a test machine."""
        text = expand(self.source, self.gateways)
        text = text.replace("listen 80 ", f"listen 127.0.0.1:{self.port} ").replace("bind :80 ", f"bind 127.0.0.1:{self.port} ")
        text = text.replace("worker_rlimit_nofile 140000", "worker_rlimit_nofile 4096").replace("131072", "2048").replace("maxconn 100000", "maxconn 2000")
        text = text.replace("worker_processes auto", "worker_processes 2").replace("pid nginx.pid", f"pid {self.folder}/nginx.pid")
        # A test machine may be so busy that an answer takes seconds.
        text = text.replace("timeout check 2s", "timeout check 20s").replace("timeout connect 2s", "timeout connect 20s")
        self.file.write_text(self.change(text.replace("proxy_connect_timeout 2s", "proxy_connect_timeout 20s")))

    def up(self):
        """Whether it answers for a gateway."""
        if self.process.poll() is not None:
            raise AssertionError((self.folder / "log").read_text())
        try:
            return http(f"http://127.0.0.1:{self.port}/health")[0] == 200
        except OSError:
            return False

    def reload(self):
        """New configuration, new workers; the old ones keep their connections."""
        self.write()
        if self.kind == "nginx":
            self.process.send_signal(signal.SIGHUP)
            return
        # HAProxy's worker serves before its master listens to signals: a reload right after the start is lost.
        workers = self.workers_started()
        while self.workers_started() == workers:
            self.process.send_signal(signal.SIGUSR2)
            with contextlib.suppress(AssertionError):
                wait_until(lambda: self.workers_started() > workers, 2)

    def workers_started(self):
        """Workers of HAProxy so far, from its log."""
        return (self.folder / "log").read_text().count("forked")

    def close(self):
        """Ends it and its workers."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


@pytest.fixture
def balancers(tmp_path):
    """Starts balancers that end with the test."""
    with contextlib.ExitStack() as stack:
        def start(kind, gateways, **options):
            folder = tmp_path / f"{kind}{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            balancer = Balancer(kind, folder, gateways, **options)
            stack.callback(balancer.close)
            return balancer

        yield start


def speak(client, text="hello"):
    """Joins a room, publishes, hears itself."""
    client.send('{"type":"join","roomId":"lobby"}')
    client.send(json.dumps({"type": "message", "roomId": "lobby", "content": text}))
    heard = [json.loads(client.recv(timeout=5)) for _ in range(2)]
    assert [m["type"] for m in heard] == ["joined", "message"] and heard[1]["content"] == text


def welcome(client):
    """The first message."""
    message = json.loads(client.recv(timeout=5))
    assert message["type"] == "welcome"
    return message


@pytest.mark.parametrize("kind", BALANCERS)
def test_the_upgrade_passes_and_messages_go_both_ways(kind, gateways, balancers):
    balancer = balancers(kind, [gateways()])
    with connect(balancer.url) as client:
        welcome(client)
        speak(client, "x" * 50_000)
    assert http(f"http://127.0.0.1:{balancer.port}/nothing")[0] in (404, 426), "the gateway's own answers pass too"


# Sixty seconds are three here: the balancer's limit on silence, and the gateway's interval of pings above and below it.
QUIET = {"nginx": lambda text: text.replace("proxy_read_timeout 90s", "proxy_read_timeout 3s").replace("proxy_send_timeout 90s", "proxy_send_timeout 3s"),
         "haproxy": lambda text: text.replace("timeout tunnel 90s", "timeout tunnel 3s").replace("timeout client 60s", "timeout client 3s").replace("timeout server 60s", "timeout server 3s")}


class Application(http_server.ThreadingHTTPServer):
    """A team's own application: which requests may connect, by their cookies. It notes what it was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", free_port()), Asked)
        self.asked = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Asked(http_server.BaseHTTPRequestHandler):
    """204 for the session `good`, else 401."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["X-Original-URI"]))
        self.send_response(204 if "session=good" in self.headers.get("Cookie", "") else 401)
        self.end_headers()

    def log_message(self, *_):
        pass


def asking(application):
    """The option: the application says which clients may connect."""
    def change(text):
        lines = text.splitlines()
        begin = next(n for n, line in enumerate(lines) if "# location = /may-connect" in line)
        end = next(n for n in range(begin, len(lines)) if lines[n].strip() == "# }")
        lines[begin:end + 1] = [line.replace("# ", "", 1) for line in lines[begin:end + 1]]
        text = uncommented("\n".join(lines) + "\n", "auth_request /may-connect")
        return text.replace("127.0.0.1:3000", f"127.0.0.1:{application.server_port}")
    return change


def test_nginx_asks_the_application_by_auth_request_which_clients_may_connect(gateways, balancers):
    """A team that cannot sign tokens has cookies, and an application that knows them."""
    with Application() as application:
        gateway = gateways()
        balancer = balancers("nginx", [gateway], change=lambda text: asking(application)(text).replace("location / {", "location = /health { proxy_pass http://tidegate; }\n        location / {"))
        for cookie in ("session=stolen", "other=good"):
            with pytest.raises(InvalidStatus) as refused:
                connect(balancer.url, additional_headers={"Cookie": cookie})
            assert refused.value.response.status_code == 401
        assert gateway.metric('ws_handshakes_total{result="upgraded"}') == 0
        with connect(f"{balancer.url}/ws?x=1", additional_headers={"Cookie": "session=good"}) as client:
            welcome(client)
            for _ in range(3):
                speak(client)
        assert application.asked == [("/may-connect", "/"), ("/may-connect", "/"), ("/may-connect", "/ws?x=1")], "once for each upgrade"
        application.shutdown()


@pytest.mark.parametrize("kind", BALANCERS)
def test_an_idle_connection_outlives_the_balancers_limit_because_of_pings(kind, gateways, balancers):
    gateway = gateways('[heartbeat]\nping_interval = "1s"\npong_timeout = "1s"\n')
    balancer = balancers(kind, [gateway], change=QUIET[kind])
    with connect(balancer.url, ping_interval=None) as client:
        welcome(client)
        # The client says nothing itself; its library answers pings.
        with pytest.raises(TimeoutError):
            client.recv(timeout=8)
        speak(client)


@pytest.mark.slow
def test_an_idle_connection_outlives_a_minute_through_the_references_as_they_are(gateways, balancers):
    gateway = gateways()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(balancers(kind, [gateway]).url, ping_interval=None)) for kind in BALANCERS]
        for client in clients:
            welcome(client)
        # Above both balancers' own defaults (60 s) and the references' limit (90 s).
        with pytest.raises(TimeoutError):
            clients[0].recv(timeout=100)
        for client in clients:
            speak(client)


@pytest.mark.parametrize("kind", BALANCERS)
def test_without_pings_the_same_balancer_cuts_it_off(kind, gateways, balancers):
    balancer = balancers(kind, [gateways('[heartbeat]\nping_interval = "1m"\npong_timeout = "10s"\n')], change=QUIET[kind])
    with connect(balancer.url, ping_interval=None) as client:
        welcome(client)
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=30)


@pytest.mark.parametrize("kind", BALANCERS)
def test_the_clients_address_comes_from_the_balancer_and_not_from_the_client(kind, gateways, balancers):
    gateway = gateways(PROXIES)
    balancer = balancers(kind, [gateway])
    forged = {"X-Forwarded-For": "6.6.6.6"}
    with connect(balancer.url, additional_headers=forged, sock=from_address("127.0.0.7", balancer.port)) as client:
        welcome(client)
        assert any(peer.startswith("127.0.0.7") for peer in gateway.peers())


def from_address(address, port):
    """A connection whose client has another loopback address."""
    return socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(address, 0))


@pytest.mark.parametrize("trusted, seen", [('["127.0.0.1"]', "203.0.113.9"), ('["10.0.0.0/8"]', "127.0.0.1"), ("[]", "127.0.0.1")])
def test_x_forwarded_for_counts_only_from_a_trusted_peer(trusted, seen, gateways):
    gateway = gateways(f"[proxies]\ntrusted = {trusted}\n")
    with connect(gateway.url, additional_headers={"X-Forwarded-For": "198.51.100.1, 203.0.113.9"}) as client:
        welcome(client)
        assert [peer.rsplit(":", 1)[0] if peer.count(":") == 1 else peer for peer in gateway.peers()] == [seen]


def proxy_v2(text):
    """HAProxy with PROXY protocol v2 to the gateways: the commented option of the reference."""
    kept = [line for line in text.splitlines() if not re.match(r" +server ", line)]
    servers = [line for line in text.splitlines() if re.match(r" +server ", line)]
    return "\n".join(kept + [f"{line} send-proxy-v2 check-send-proxy" for line in servers]) + "\n"


def test_the_clients_address_comes_by_proxy_protocol_v2(gateways, balancers):
    gateway = gateways(PROXIES + "protocol_v2 = true\n")
    balancer = balancers("haproxy", [gateway], change=lambda text: proxy_v2(text).replace("http-request set-header X-Forwarded-For %[src]", ""))
    with connect(balancer.url, sock=from_address("127.0.0.8", balancer.port)) as client:
        welcome(client)
        speak(client)
        assert any(peer.startswith("127.0.0.8") for peer in gateway.peers())


def test_proxy_protocol_from_a_peer_that_is_not_trusted_is_a_bad_request(gateways, balancers):
    gateway = gateways('[proxies]\ntrusted = ["10.0.0.0/8"]\nprotocol_v2 = true\n')
    signature = b"\r\n\r\n\0\r\nQUIT\n"
    header = signature + b"\x21\x11" + (12).to_bytes(2, "big") + bytes([6, 6, 6, 6, 127, 0, 0, 1]) + (1).to_bytes(2, "big") * 2
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as client:
        client.sendall(header + b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")
        assert "6.6.6.6" not in gateway.peers()
    wait_until(lambda: not gateway.peers(), 5, "it is gone")


def test_a_trusted_peer_that_sends_no_proxy_header_is_refused(gateways):
    gateway = gateways(PROXIES + "protocol_v2 = true\n")
    with pytest.raises(InvalidStatus) as refused:
        connect(gateway.url, open_timeout=5)
    assert refused.value.response.status_code == 400


@pytest.mark.parametrize("kind", BALANCERS)
def test_a_draining_gateway_is_left_out_and_nobody_hears_of_it(kind, gateways, balancers):
    first, second = gateways(drain_window="20s"), gateways()
    balancer = balancers(kind, [first, second])
    first.drain()
    wait_until(lambda: first.ready() == 503, 5, "unready")
    for _ in range(10):
        with connect(balancer.url) as client:
            welcome(client)
            speak(client)
    assert second.metric('ws_handshakes_total{result="upgraded"}') == 10


def plain_check(gateways):
    """HAProxy's own default check (HTTP/1.0, no Host) against the admin ports: the commented option of the reference."""
    def change(text):
        text = uncommented(text, "option httpchk GET /ready").replace("    option httpchk\n", "")
        lines = [line for line in text.splitlines() if "http-check send" not in line]
        ports = {str(gateway.port): gateway.admin_port for gateway in gateways}
        for n, line in enumerate(lines):
            server = re.match(r" +server \w 127\.0\.0\.1:(\d+)", line)
            if server:
                lines[n] = f"{line} check port {ports[server[1]]}"
        return "\n".join(lines) + "\n"
    return change


def test_haproxys_plain_health_check_finds_out_at_the_admin_port_who_is_ready(gateways, balancers):
    nodes = [gateways(drain_window="20s"), gateways()]
    balancer = balancers("haproxy", nodes, change=plain_check(nodes))
    assert "HTTP/1.1" not in balancer.file.read_text() and "option httpchk GET /ready\n" in balancer.file.read_text()
    with connect(balancer.url) as client:
        welcome(client)
        speak(client)
    nodes[0].drain()
    log = balancer.folder / "log"
    wait_until(lambda: "Server tidegate/a is DOWN" in log.read_text(), 60, "HAProxy's notice")
    assert "tidegate/b is DOWN" not in log.read_text() and 'code: 503' in log.read_text()


@pytest.mark.parametrize("kind", BALANCERS)
def test_a_drained_client_is_told_and_comes_back_through_the_balancer(kind, gateways, balancers):
    first, second = gateways(drain_window="1s"), gateways(drain_window="1s")
    balancer = balancers(kind, [first, second])
    with connect(balancer.url) as client:
        welcome(client)
        host = first if first.metric("ws_connections_active") else second
        host.drain()
        assert json.loads(client.recv(timeout=5))["type"] == "server-shutdown"
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=5)
        assert closed.value.rcvd.code == 1012
    with connect(balancer.url) as client:
        welcome(client)
        assert (second if host is first else first).metric("ws_connections_active") == 1


@pytest.mark.parametrize("kind", BALANCERS)
def test_a_reload_of_the_balancer_keeps_connections(kind, gateways, balancers):
    first, second = gateways(), gateways()
    balancer = balancers(kind, [first])
    with connect(balancer.url) as before:
        welcome(before)
        balancer.gateways = [second]
        balancer.reload()

        def after():
            with connect(balancer.url) as client:
                welcome(client)
            return second.metric('ws_handshakes_total{result="upgraded"}') > 0

        wait_until(after, 30, "new connections at the new gateway")
        speak(before)
        assert first.metric("ws_connections_active") == 1


def hashed(kind):
    """The option: the same user on the same gateway."""
    if kind == "nginx":
        return lambda text: uncommented(text, "hash $arg_user").replace("least_conn;", "")
    return lambda text: uncommented(text, "balance hash", "hash-type").replace("balance leastconn", "")


@pytest.mark.parametrize("kind", BALANCERS)
def test_the_option_of_consistent_hashing_keeps_a_user_at_its_gateway(kind, gateways, balancers):
    nodes = [gateways(), gateways()]
    balancer = balancers(kind, nodes, change=hashed(kind))
    homes = {}
    for round_ in range(2):
        for user in range(16):
            before = [node.metric('ws_handshakes_total{result="upgraded"}') for node in nodes]
            with connect(f"{balancer.url}/?user=u{user}") as client:
                welcome(client)
            after = [node.metric('ws_handshakes_total{result="upgraded"}') for node in nodes]
            home = [b - a for a, b in zip(before, after)].index(1)
            assert homes.setdefault(user, home) == home
    assert set(homes.values()) == {0, 1}


def sticky(kind):
    """The option: a cookie called route."""
    if kind == "nginx":
        def change(text):
            on = uncommented(text, "map $cookie_route", "hash $route_key", "add_header Set-Cookie").replace("least_conn;", "")
            return re.sub(r"# (    default \$cookie_route;|    \"\"      \$request_id;)", r"\1", on).replace("    # }", "    }", 1)
        return change
    return lambda text: uncommented(text, "cookie route")


@pytest.mark.parametrize("kind", BALANCERS)
def test_the_option_of_a_cookie_brings_a_client_back_to_its_gateway(kind, gateways, balancers):
    nodes = [gateways(), gateways()]
    balancer = balancers(kind, nodes, change=sticky(kind))
    for _ in range(4):
        with connect(balancer.url) as client:
            welcome(client)
            cookie = client.response.headers["Set-Cookie"].split(";")[0]
            assert cookie.startswith("route=")
            home = [node.metric("ws_connections_active") for node in nodes].index(1)
        for _ in range(3):
            wait_until(lambda: not sum(node.metric("ws_connections_active") for node in nodes), 5, "the end of the last one")
            with connect(balancer.url, additional_headers={"Cookie": cookie}) as client:
                welcome(client)
                assert nodes[home].metric("ws_connections_active") == 1


def test_the_reference_configurations_are_accepted_as_they_are(tmp_path):
    run("haproxy", "-c", "-f", TUNING / "balancers/haproxy.cfg")
    run("nginx", "-t", "-p", f"{tmp_path}/", "-c", TUNING / "balancers/nginx.conf")


def test_envoys_reference_says_that_it_was_not_run():
    assert "WAS NOT RUN" in (TUNING / "balancers/envoy.yaml").read_text()


def test_the_load_generator_gets_every_message_once_and_in_order_through_each_balancer(tidegate):
    script = ROOT / "tests/deploy/balancers_load.py"
    table = run(sys.executable, script, "--smoke", env={**os.environ, "TIDEGATE_BIN": str(tidegate)}).stdout
    for way in ("direct", "nginx", "haproxy"):
        delivered, lost, doubled, reordered = (int(n) for n in re.search(rf"^{way} +(\d+) +(\d+) +(\d+) +(\d+)", table, re.M).groups())
        assert delivered >= 50 * 20 and (lost, doubled, reordered) == (0, 0, 0)
