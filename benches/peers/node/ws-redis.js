// Rooms on Node's ws, joined by Redis pub/sub: `node ws-redis.js PORT REDIS_PORT`. A connection is in the room that its path
// names; what it says goes to every member through Redis, as it is.
"use strict";

const { WebSocketServer } = require("ws");
const { createClient } = require("redis");

const [port, redisPort] = process.argv.slice(2).map(Number);
const rooms = new Map();

async function main() {
  // Without a timer for each publication, whose default would also give up those that wait behind a full load.
  const publisher = createClient({ url: `redis://127.0.0.1:${redisPort}`, commandOptions: { timeout: undefined } });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);

  function join(room, socket) {
    let members = rooms.get(room);
    if (!members) {
      rooms.set(room, (members = new Set()));
      subscriber.subscribe(room, (message) => {
        for (const member of members) member.send(message);
      });
    }
    members.add(socket);
  }

  const server = new WebSocketServer({ host: "127.0.0.1", port, backlog: 4096, perMessageDeflate: false });
  server.on("connection", (socket, request) => {
    const room = request.url;
    join(room, socket);
    socket.alive = true;
    socket.on("pong", () => (socket.alive = true));
    socket.on("message", (data) => publisher.publish(room, data.toString()));
    socket.on("close", () => rooms.get(room)?.delete(socket));
    socket.on("error", () => socket.terminate());
  });
  setInterval(() => {
    for (const socket of server.clients) {
      if (!socket.alive) socket.terminate();
      else {
        socket.alive = false;
        socket.ping();
      }
    }
  }, 25000);
}

main();
