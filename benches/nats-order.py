#!/usr/bin/env python3
"""Asks a real nats-server in which order it answers: does every `-ERR` come before the PONG of the next PING?

    benches/nats-order.py NATS_SERVER [PORT]

PORT (27200) is a free loopback port. The script starts the server itself, with permissions, and speaks the protocol over a bare socket.
It prints what it saw, one line for each question, and exits with 1 where an error came after the PONG or not at all.
"""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

SERVER, PORT = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 27200
DIRECTORY = tempfile.mkdtemp(prefix="nats-order-")
CONFIG = os.path.join(DIRECTORY, "nats.conf")
WRONG = []


def configure(allowed, rest=""):
    """Writes the configuration: the user may use these subjects only."""
    names = ", ".join(f'"{name}"' for name in allowed)
    with open(CONFIG, "w") as file:
        file.write(f'listen: "127.0.0.1:{PORT}"\npid_file: "{DIRECTORY}/pid"\n{rest}\n'
                   f'authorization {{ users = [ {{ user: u, password: p, permissions: '
                   f'{{ publish: [{names}], subscribe: [{names}] }} }} ] }}\n')


def start():
    # Into a file: the server logs each violation, and a pipe that is not read would stop it.
    with open(os.path.join(DIRECTORY, "log"), "w") as log:
        return subprocess.Popen([SERVER, "-c", CONFIG], stderr=log)


class Client:
    def __init__(self, verbose=False):
        for _ in range(50):
            try:
                self.socket = socket.create_connection(("127.0.0.1", PORT), timeout=10)
                break
            except OSError:
                time.sleep(0.1)
        self.read = b""
        self.info = self.line()
        options = {"verbose": verbose, "pedantic": False, "user": "u", "pass": "p", "lang": "order", "version": "0", "protocol": 1}
        self.send("CONNECT " + json.dumps(options))
        self.until_pong()

    def send(self, *lines):
        self.socket.sendall("".join(line + "\r\n" for line in lines).encode())

    def line(self):
        while b"\r\n" not in self.read:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError
            self.read += more
        line, self.read = self.read.split(b"\r\n", 1)
        return line.decode()

    def until_pong(self):
        """Sends a PING and gives every line before its PONG."""
        self.send("PING")
        seen = []
        while (line := self.line()) != "PONG":
            if line == "PING":
                self.send("PONG")
            else:
                seen.append(line)
        return seen

    def later(self, seconds):
        """The lines that come in this time although nothing was asked."""
        seen = []
        self.socket.settimeout(seconds)
        try:
            while True:
                seen.append(self.line())
        except (EOFError, OSError):
            pass
        self.socket.settimeout(10)
        return seen


def errors(lines):
    return [line for line in lines if line.startswith("-ERR")]


def report(question, right, seen):
    print(f"  {'yes' if right else 'NO '} {question}: {seen}")
    if not right:
        WRONG.append(question)


def stop(server):
    server.kill()
    server.wait()


def permissions():
    configure(["ok.>"])
    server = start()
    client, asked, before, named = Client(), 0, 0, True
    for turn in range(200):
        lines = [f"SUB {'no' if n % 2 else 'ok'}.{turn}.{n} {turn * 100 + n}" for n in range(100)]
        client.send(*lines)
        got = errors(client.until_pong())
        asked, before = asked + 50, before + len(got)
        named &= all(f'"no.{turn}.{n}"' in " ".join(got) for n in range(1, 100, 2))
    late = errors(client.later(0.3))
    report("an -ERR for each forbidden SUB before the next PONG", asked == before and not late and named,
           f"{before} of {asked}, {len(late)} later, e.g. {got[0]}")
    client = Client()
    client.send(*(f"PUB no.{n} 1\r\nx" for n in range(100)))
    got = errors(client.until_pong())
    report("an -ERR for each forbidden PUB before the next PONG", len(got) == 100, f"{len(got)} of 100, e.g. {got[0]}")
    client.send("PUB ok.1 _R_.x 1\r\nx")
    got = errors(client.until_pong())
    report("an -ERR about a reply names the reply only", len(got) == 1 and '"_R_.x"' in got[0] and "ok.1" not in got[0], got)
    client = Client(verbose=True)
    client.send("SUB ok.1 1", "SUB no.2 2", "SUB ok.3 3")
    got = client.until_pong()
    report("verbose: one +OK or -ERR for each SUB, in order", [line[:3] for line in got[-3:]] == ["+OK", "-ER", "+OK"], got[-3:])
    stop(server)


def reload():
    """Permissions are taken away while the client subscribes: each room must be named by an error, before or after its PONG."""
    configure(["ok.>", "room.>"])
    server = start()
    client = Client()
    client.send(*(f"SUB room.old.{n} {n}" for n in range(1000)))
    assert not errors(client.until_pong())
    configure(["ok.>"])
    number, confirmed, refused, revoked, turned = 1000, set(), set(), set(), None
    server.send_signal(signal.SIGHUP)
    until = time.time() + 3
    while time.time() < until:
        fresh = {f"room.new.{number + n}" for n in range(20)}
        client.send(*(f"SUB {name} {number + n}" for n, name in enumerate(sorted(fresh))))
        named = set(re.findall(r'Subscription to "([^"]+)"', " ".join(errors(client.until_pong()))))
        refused |= named & fresh
        confirmed |= fresh - named
        revoked |= named - fresh
        number += 20
        if turned and fresh - named:
            WRONG.append("a SUB after the reload was confirmed")
        if named and turned is None:
            turned = time.time()
            until = turned + 1
    got = errors(client.later(0.5))
    revoked |= set(re.findall(r'Subscription to "([^"]+)"', " ".join(got)))
    was = {f"room.old.{n}" for n in range(1000)} | confirmed
    report("reload: every room in force is named by an -ERR", was <= revoked,
           f"{len(was & revoked)} of {len(was)} in force were revoked by name; {len(refused)} SUBs after it refused before their PONG"
           f"; {len(confirmed)} SUBs were confirmed while the reload was under way, and are among those revoked")
    client.send("SUB ok.1 1")
    client.send("PUB ok.1 1\r\nx")
    report("reload: the connection lives on", any(line.startswith("MSG ok.1") for line in client.until_pong()), "MSG came back")
    stop(server)


def max_subscriptions():
    configure([">"], "max_subscriptions: 10")
    server = start()
    client = Client()
    client.send(*(f"SUB a.{n} {n}" for n in range(15)))
    got = errors(client.until_pong())
    report("max_subscriptions: an -ERR for each SUB beyond it before the next PONG", len(got) == 5,
           f"{len(got)} of 5, e.g. {got[:1]}, later {client.later(0.3)}")
    client.send("SUB a.3 3")
    got = errors(client.until_pong())
    report("max_subscriptions: at the limit a SUB that is in force is an error when it is repeated", len(got) == 1, got)
    client.send("UNSUB 3", "SUB a.3 3")
    taken = errors(client.until_pong())
    client.send("UNSUB 12", "SUB a.12 12")
    beyond = errors(client.until_pong())
    report("max_subscriptions: UNSUB, SUB and PING, one room after another, tell which are in force", not taken and len(beyond) == 1,
           f"{taken} for one in force, {beyond} for one beyond the limit")
    client = Client(verbose=True)
    client.send(*(f"SUB a.{n} {n}" for n in range(12)))
    got = client.until_pong()
    report("max_subscriptions, verbose: the -ERR stands in the place of the SUB's +OK",
           [line[:3] for line in got[-12:]] == ["+OK"] * 10 + ["-ER"] * 2, [line[:40] for line in got[-4:]])
    stop(server)


def lame_duck():
    configure(["ok.>"], 'lame_duck_duration: "30s"\nlame_duck_grace_period: "3s"')
    server = start()
    client = Client()
    client.send("SUB ok.1 1")
    client.until_pong()
    server.send_signal(signal.SIGUSR2)
    turns, right, said, before = 0, 0, False, 0
    end = time.time() + 2
    while time.time() < end:
        client.send(f"SUB no.{turns} {1000 + turns}", f"SUB ok.{turns} {2000 + turns}", f"PUB ok.{turns} 1\r\nx")
        got = client.until_pong()
        said = said or any(line.startswith("INFO") and '"ldm":true' in line for line in got)
        before += not said
        right += len(errors(got)) == 1 and any(line.startswith(f"MSG ok.{turns} ") for line in got)
        turns += 1
    report("lame duck: the -ERR and the MSG come before the PONG", said and right == turns,
           f"{right} of {turns} turns, {before} of them before INFO with ldm said so")
    server.kill()
    server.wait()


print(subprocess.run([SERVER, "--version"], capture_output=True, text=True).stdout.strip())
permissions()
reload()
max_subscriptions()
lame_duck()
sys.exit(1 if WRONG else 0)
