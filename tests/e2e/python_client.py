"""A client and a backend that share nothing with the gateway: websockets and nats-py.

python_client.py websockets PORT PORT: two clients, perhaps on two nodes, exchange messages in both dialects.
python_client.py backend PORT NATS_URL: a backend publishes JSON, text, bytes and headers to a client.
"""

import asyncio
import json
import sys

import nats
import websockets

LONGEST_WAIT = 30


async def heard(client):
    return json.loads(await asyncio.wait_for(client.recv(), LONGEST_WAIT))


async def joined(port, room):
    client = await websockets.connect(f"ws://127.0.0.1:{port}/ws", subprotocols=["tidegate.v1"])
    assert client.subprotocol == "tidegate.v1"
    welcome = await heard(client)
    assert welcome["type"] == "welcome", welcome
    await client.send(json.dumps({"type": "join", "roomId": room}))
    assert await heard(client) == {"type": "joined", "roomId": room}
    return client, welcome["connectionId"]


async def in_the_room(member):
    while True:
        await member.send("in?")
        try:
            return await asyncio.wait_for(member.recv(), 0.5)
        except asyncio.TimeoutError:
            continue


async def exchange(one_port, two_port):
    one, one_id = await joined(one_port, "lobby")
    two, two_id = await joined(two_port, "lobby")
    for speaker, identity in ((one, one_id), (two, two_id)):
        for content in ({"text": "h\u00e9llo", "n": [1, 2.5, None]}, "x" * 60_000, 0):
            await speaker.send(json.dumps({"type": "message", "roomId": "lobby", "content": content}))
            for listener in (one, two):
                message = await heard(listener)
                assert (message["type"], message["content"], message["from"]) == ("message", content, identity), message
    # A library's own ping, and a message in fragments.
    await asyncio.wait_for(await one.ping(), LONGEST_WAIT)
    await one.send(iter(['{"type":"message",', '"roomId":"lobby",', '"content":"in parts"}']))
    assert (await heard(two))["content"] == "in parts"
    await one.close(code=3001)
    assert one.close_code == 3001

    raw_one = await websockets.connect(f"ws://127.0.0.1:{one_port}/raw/pit")
    raw_two = await websockets.connect(f"ws://127.0.0.1:{two_port}/raw/pit")
    # In the raw dialect nothing says joined: a member is who hears itself.
    await asyncio.gather(*(in_the_room(member) for member in (raw_one, raw_two)))
    await raw_one.send(b"\x00\xff")
    for member in (raw_one, raw_two):
        while (message := await asyncio.wait_for(member.recv(), LONGEST_WAIT)) != b"\x00\xff":
            assert message == "in?", message
    await raw_one.close()
    await raw_two.close()
    await two.close()


async def backend(port, url):
    client, _ = await joined(port, "lobby")
    broker = await nats.connect(url)
    subject = "tidegate.room.lobby"
    await broker.publish(subject, b'{"n": 1}')
    await broker.publish(subject, "pl\u00e4in".encode())
    await broker.publish(subject, b"\xff\x00")
    await broker.publish(subject, b"[1]", headers={"Tidegate": "v1; kind=text"})
    await broker.publish(subject, b"last", headers={"X-Mine": "1"})
    await broker.flush()
    messages = [await heard(client) for _ in range(5)]
    assert [m["content"] for m in messages] == [{"n": 1}, "pl\u00e4in", "/wA=", "[1]", "last"], messages
    assert messages[2]["encoding"] == "base64" and all("from" not in m for m in messages)
    # And it hears what clients say.
    said = asyncio.get_running_loop().create_future()

    async def take(message):
        said.set_result(message)

    await broker.subscribe(subject, cb=take)
    # Not flush(): nats-py sends its PING before what is still pending, a subscription too. A message to itself goes behind it.
    inbox = broker.new_inbox()
    proof = await broker.subscribe(inbox)
    await broker.publish(inbox, b"")
    await proof.next_msg(LONGEST_WAIT)
    await client.send(json.dumps({"type": "message", "roomId": "lobby", "content": {"a": 1}}))
    message = await asyncio.wait_for(said, LONGEST_WAIT)
    assert json.loads(message.data) == {"a": 1}
    assert message.headers["Tidegate"].startswith("v1;"), message.headers
    await broker.close()
    await client.close()


if __name__ == "__main__":
    story, *arguments = sys.argv[1:]
    asyncio.run({"websockets": exchange, "backend": backend}[story](*arguments))
    print("ok")
