"""Tokens that the gateway did not make, brought by a client that is not ours: PyJWT, cryptography and websockets.

token_client.py keys FOLDER: writes a secret, and public keys as PEM and as JWKS, and keeps the private ones beside them.
token_client.py talk PORT FOLDER: connects with tokens of every algorithm, and with bad ones, and holds the gateway to its answers.
token_client.py narrow PORT PORT FOLDER: joins with a room's own token at one node while a client of another publishes, until it has ended.
"""

import asyncio
import json
import pathlib
import sys
import time

import jwt
import websockets
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

LONGEST_WAIT = 30
NAMES = {"RS256": "rsa", "PS256": "rsa", "ES256": "p256", "ES384": "p384", "EdDSA": "ed25519"}


def write_keys(folder):
    keys = {
        "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "p256": ec.generate_private_key(ec.SECP256R1()),
        "p384": ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
    }
    for name, key in keys.items():
        (folder / f"{name}.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = {name: key.public_key() for name, key in keys.items()}
    # Half of them in either form.
    pem = [public[name].public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for name in ("p384", "ed25519")]
    (folder / "public.pem").write_bytes(b"".join(pem))
    jwks = [
        {**json.loads(RSAAlgorithm.to_jwk(public["rsa"])), "kid": "one"},
        {**json.loads(ECAlgorithm.to_jwk(public["p256"])), "kid": "two", "use": "sig"},
    ]
    for key in jwks:
        key.pop("key_ops", None)
    (folder / "keys.json").write_text(json.dumps({"keys": jwks}))
    (folder / "secret").write_text("a secret of at least thirty-two bytes, and spaces\n")


class Issuer:
    def __init__(self, folder):
        self.folder = folder

    def token(self, algorithm="HS256", **claims):
        claims = {"sub": "alice", "exp": time.time() + 600, "rooms": {"chat.*": "rw"}, **claims}
        claims = {name: value for name, value in claims.items() if value is not None}
        headers = {"RS256": {"kid": "one"}, "PS256": {"kid": "one"}, "ES256": {"kid": "two"}}.get(algorithm)
        return jwt.encode(claims, self.key(algorithm), algorithm=algorithm, headers=headers)

    def key(self, algorithm):
        if algorithm == "HS256":
            return (self.folder / "secret").read_text().strip()
        return load_pem_private_key((self.folder / f"{NAMES[algorithm]}.pem").read_bytes(), None)


async def heard(client):
    return json.loads(await asyncio.wait_for(client.recv(), LONGEST_WAIT))


async def closed(client):
    """The code and reason of the close, after whatever was said before it."""
    try:
        while True:
            await asyncio.wait_for(client.recv(), LONGEST_WAIT)
    except websockets.ConnectionClosed as end:
        return end.rcvd.code, end.rcvd.reason


def as_page(port, token, path="/"):
    """As a page connects: it can send no header but the subprotocols."""
    subprotocols = ["tidegate.v1"] if token is None else ["tidegate.v1", f"bearer.{token}"]
    return websockets.connect(f"ws://127.0.0.1:{port}{path}", subprotocols=subprotocols)


async def every_algorithm_opens(port, issuer):
    for algorithm in ["HS256", *NAMES]:
        async with as_page(port, issuer.token(algorithm)) as client:
            welcome = await heard(client)
            assert welcome["user"] == "alice" and 0 < welcome["expiresIn"] <= 630_000, (algorithm, welcome)
            assert client.subprotocol == "tidegate.v1"


async def bad_tokens_are_told(port, issuer):
    now = time.time()
    bad = {
        "expired": issuer.token(exp=now - 100),
        "not-yet-valid": issuer.token(nbf=now + 100),
        "no-expiry": issuer.token(exp=None),
        "lifetime": issuer.token(exp=now + 10_000_000),
        "user": issuer.token(sub="a b"),
        "rooms": issuer.token(rooms={"org.1*": "r"}),
        "signature": issuer.token()[:-4] + "AAAA",
        "malformed": "not.a.token",
        "algorithm": jwt.encode({"sub": "alice", "exp": now + 60}, None, algorithm="none"),
    }
    for reason, token in bad.items():
        async with as_page(port, token) as client:
            error = await heard(client)
            assert (error["code"], error["reason"]) == ("unauthorized", reason), (reason, error)
            code, text = await closed(client)
            assert code == 3000 and error["message"].startswith(text[:40]), (reason, code, text)
        try:
            await websockets.connect(f"ws://127.0.0.1:{port}/", additional_headers={"Authorization": f"Bearer {token}"})
            raise AssertionError(reason)
        except websockets.InvalidStatus as refused:
            assert refused.response.status_code == 401 and refused.response.body.startswith(reason.encode()), reason


async def a_token_may_be_the_first_message(port, issuer):
    async with as_page(port, None) as client:
        assert (await heard(client))["auth"] == "required"
        await client.send(json.dumps({"type": "join", "roomId": "chat.a"}))
        assert (await heard(client))["code"] == "unauthorized"
        await client.send(json.dumps({"type": "auth", "token": issuer.token()}))
        assert (await heard(client))["type"] == "authenticated"
        await client.send(json.dumps({"type": "join", "roomId": "news"}))
        assert (await heard(client))["code"] == "forbidden"


async def a_renewal_loses_nothing_and_ends_what_it_no_longer_grants(port, issuer):
    """A stream runs into two rooms; the new token grants one of them."""
    async with as_page(port, issuer.token()) as reader, as_page(port, issuer.token()) as writer:
        await heard(reader), await heard(writer)
        for room in ("chat.kept", "chat.lost"):
            await reader.send(json.dumps({"type": "join", "roomId": room}))
            assert (await heard(reader))["type"] == "joined"

        done = asyncio.Event()

        async def publish():
            number = 0
            while not done.is_set():
                for room in ("chat.kept", "chat.lost"):
                    await writer.send(json.dumps({"type": "message", "roomId": room, "content": number}))
                number += 1
                await asyncio.sleep(0)

        stream = asyncio.create_task(publish())
        kept, is_out, after = [], False, 0
        while after < 200:
            said = await heard(reader)
            if said["type"] == "message" and said["roomId"] == "chat.kept":
                kept.append(said["content"])
                after += is_out
                if len(kept) == 100:
                    await reader.send(json.dumps({"type": "auth", "token": issuer.token(rooms={"chat.kept": "r"})}))
            elif said["type"] == "message":
                assert not is_out, "a message of a room that was left"
            elif said["type"] == "left":
                assert (said["roomId"], said["reason"]) == ("chat.lost", "permission")
                is_out = True
        done.set()
        await stream
        assert kept == list(range(len(kept)))


async def a_raw_client_is_let_in_by_the_room_of_its_path(port, issuer):
    async with as_page(port, issuer.token(), "/raw/chat.raw") as client:
        assert client.subprotocol == "tidegate.v1"
    async with as_page(port, issuer.token(), "/raw/news") as client:
        assert (await closed(client))[0] == 3003
    async with as_page(port, None, "/raw/chat.raw") as client:
        assert (await closed(client))[0] == 3000


async def a_token_ends_its_connection(port, issuer):
    # The leeway of this node is a second: told at half of the token's life, closed a second after its end.
    async with as_page(port, issuer.token(exp=time.time() + 2)) as client:
        assert (await heard(client))["type"] == "welcome"
        assert (await heard(client))["type"] == "token-expiring"
        assert (await heard(client))["reason"] == "expired"
        assert (await closed(client))[0] == 3000


async def a_token_may_come_twice(port, issuer):
    token = issuer.token()
    for _ in range(2):
        async with as_page(port, token) as client:
            assert (await heard(client))["type"] == "welcome"


async def talk(port, issuer):
    await every_algorithm_opens(port, issuer)
    await bad_tokens_are_told(port, issuer)
    await a_token_may_be_the_first_message(port, issuer)
    await a_renewal_loses_nothing_and_ends_what_it_no_longer_grants(port, issuer)
    await a_raw_client_is_let_in_by_the_room_of_its_path(port, issuer)
    await a_token_may_come_twice(port, issuer)
    await a_token_ends_its_connection(port, issuer)
    print("all held")


async def narrow(port, other_port, issuer):
    """A stream runs into two rooms from another node; each has a token of its own, and that of one of them ends."""
    grants = {"lost": "rw", "kept": "rw"}
    async with as_page(port, issuer.token()) as reader, as_page(other_port, issuer.token(rooms=grants)) as writer:
        await heard(reader), await heard(writer)
        await reader.send(json.dumps({"type": "join", "roomId": "lost", "ref": 1}))
        assert (await heard(reader))["code"] == "forbidden"
        ends = {"lost": time.time() + 2, "kept": time.time() + 600}
        tokens = {room: issuer.token(exp=end, rooms={room: "r"}) for room, end in ends.items()}
        rooms = [{"roomId": room, "token": token} for room, token in tokens.items()]
        rooms.append({"roomId": "other", "token": issuer.token(sub="bob", rooms={"other": "r"})})
        await reader.send(json.dumps({"type": "join", "ref": 2, "rooms": rooms}))
        answers = [await heard(reader) for _ in rooms]
        assert all(answer["ref"] == 2 for answer in answers), answers
        told = {answer["roomId"]: answer.get("reason", answer["type"]) for answer in answers}
        assert told == {"lost": "joined", "kept": "joined", "other": "user"}, answers

        done = asyncio.Event()

        async def publish():
            number = 0
            while not done.is_set():
                for room in grants:
                    await writer.send(json.dumps({"type": "message", "roomId": room, "content": number}))
                number += 1
                await asyncio.sleep(0.001)

        stream = asyncio.create_task(publish())
        numbers, is_out, after = {"lost": [], "kept": []}, False, 0
        while after < 500:
            said = await heard(reader)
            if said["type"] == "message":
                assert not (is_out and said["roomId"] == "lost"), "a message of a room that was left"
                numbers[said["roomId"]].append(said["content"])
                after += is_out
            elif said["type"] == "left":
                assert (said["roomId"], said["reason"]) == ("lost", "permission")
                is_out = True
        done.set()
        await stream
        for room, received in numbers.items():
            assert received == list(range(received[0], received[0] + len(received))), f"{room} has a hole"
        await reader.send(json.dumps({"type": "join", "roomId": "lost", "token": tokens["lost"]}))
        while (said := await heard(reader))["type"] == "message":
            pass
        assert (said["reason"], said["roomId"]) == ("expired", "lost"), said
    print("all held")


if __name__ == "__main__":
    if sys.argv[1] == "keys":
        write_keys(pathlib.Path(sys.argv[2]))
    elif sys.argv[1] == "narrow":
        asyncio.run(narrow(int(sys.argv[2]), int(sys.argv[3]), Issuer(pathlib.Path(sys.argv[4]))))
    else:
        asyncio.run(talk(int(sys.argv[2]), Issuer(pathlib.Path(sys.argv[3]))))
