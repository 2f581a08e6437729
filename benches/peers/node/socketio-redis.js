// Rooms on Socket.IO with its Redis adapter: `node socketio-redis.js PORT REDIS_PORT`. Clients emit "join" with a room, which is
// acknowledged, and "publish" with a room and a content, which every member gets as "message".
"use strict";

const http = require("http");
const { Server } = require("socket.io");
const { createClient } = require("redis");
const { createAdapter } = require("@socket.io/redis-adapter");

const [port, redisPort] = process.argv.slice(2).map(Number);

async function main() {
  // Without a timer for each publication, whose default would also give up those that wait behind a full load.
  const publisher = createClient({ url: `redis://127.0.0.1:${redisPort}`, commandOptions: { timeout: undefined } });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);

  const server = http.createServer();
  const io = new Server(server, { adapter: createAdapter(publisher, subscriber), transports: ["websocket"], pingInterval: 25000 });
  io.on("connection", (socket) => {
    socket.on("join", (room, done) => {
      socket.join(room);
      done();
    });
    socket.on("publish", (room, content) => io.to(room).emit("message", content));
  });
  server.listen({ port, host: "127.0.0.1", backlog: 4096 });
}

main();
