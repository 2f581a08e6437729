"""Users: clients of the library websockets, with tokens of PyJWT, at two nodes.

user_client.py left-out PORT,PORT,ADMIN,NATS FOLDER: what members are told of a sender's user, and which of them do not get a message.
"""

import asyncio
import json
import pathlib
import socket
import sys
import urllib.request

from token_client import Issuer, as_page, heard


async def joined(port, issuer, user, room="chat.a"):
    client = await as_page(port, issuer.token(sub=user))
    welcome = await heard(client)
    assert welcome["user"] == user, welcome
    await client.send(json.dumps({"type": "join", "roomId": room}))
    assert (await heard(client))["type"] == "joined"
    client.id = welcome["connectionId"]
    return client


def post(port, path, body):
    """The status and JSON of a request to the admin port."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status, json.load(answer)


def nats_publish(port, subject, header, payload):
    """Publishes one message by the protocol of NATS alone."""
    with socket.create_connection(("127.0.0.1", port)) as broker:
        head = f"NATS/1.0\r\n{header}\r\n\r\n".encode()
        sent = f"HPUB {subject} {len(head)} {len(head) + len(payload)}\r\n".encode() + head + payload + b"\r\n"
        broker.sendall(b'CONNECT {"headers":true,"verbose":false,"pedantic":false}\r\n' + sent + b"PING\r\n")
        said = b""
        while b"PONG" not in said:
            octets = broker.recv(4096)
            assert octets and b"-ERR" not in said, said
            said += octets


async def left_out(ports, issuer):
    near, far, admin, broker = ports
    members = [await joined(port, issuer, user) for user in ("alice", "bob") for port in (near, far)]
    alice_near, alice_far, bob_near, bob_far = members

    async def all_hear(content, user, silent):
        """Everything that is published to `chat.a` and leaves none out ends what comes before it."""
        for member in members:
            said = await heard(member)
            if member not in silent:
                assert (said["content"], said.get("user")) == (content, user), (said, content)
                said = await heard(member)
            assert (said["content"], said["user"]) == ("end", "carol"), (said, content)

    def end():
        post(admin, "/v1/rooms/chat.a/messages?user=carol", "end")

    await alice_near.send(json.dumps({"type": "message", "roomId": "chat.a", "content": 1, "ack": True, "echo": False}))
    assert (await heard(alice_near))["type"] == "ack"
    end()
    await all_hear(1, "alice", [alice_near])
    post(admin, f"/v1/rooms/chat.a/messages?exclude={alice_far.id}", 2)
    end()
    await all_hear(2, None, [alice_far])
    post(admin, "/v1/rooms/chat.a/messages?user=bot&excludeUser=alice", 3)
    end()
    await all_hear(3, "bot", [alice_near, alice_far])
    body = {"rooms": ["chat.b", "chat.a"], "content": 4, "exclude": bob_near.id, "excludeUser": "nobody"}
    assert post(admin, "/v1/messages", body) == (202, {"level": "broker"})
    end()
    await all_hear(4, None, [bob_near])
    header = f"Tidegate: v1; user=cron; except={alice_near.id}; except-user=bob"
    nats_publish(broker, "tidegate.room.chat.a", header, b"5")
    end()
    await all_hear(5, "cron", [alice_near, bob_near, bob_far])
    for member in members:
        await member.close()
    print("all held")


if __name__ == "__main__":
    ports = [int(port) for port in sys.argv[2].split(",")]
    asyncio.run({"left-out": left_out}[sys.argv[1]](ports, Issuer(pathlib.Path(sys.argv[3]))))
