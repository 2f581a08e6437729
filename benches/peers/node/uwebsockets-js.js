// Rooms and an echo on uWebSockets.js, its own pub/sub: `node uwebsockets-js.js PORT`. A connection is in the room that its path
// names, and what it says goes to every member as it is; /echo sends back. The library is uWebSockets in C++ with Node's event
// loop under it; messages between two members never become JavaScript values beyond the buffer that is published.
"use strict";

const uws = require("@btc-vision/uwebsockets.js");

const port = Number(process.argv[2]);

const common = {
  compression: uws.DISABLED,
  maxPayloadLength: 64 * 1024,
  maxBackpressure: 256 * 1024,
  // Seconds; the library sends pings by itself, well before.
  idleTimeout: 32,
  sendPingsAutomatically: true,
};

const app = uws.App();
app
  .ws("/echo", { ...common, message: (socket, message, binary) => socket.send(message, binary) })
  .ws("/*", {
    ...common,
    upgrade: (answer, request, context) => {
      const header = (name) => request.getHeader(`sec-websocket-${name}`);
      answer.upgrade({ room: request.getUrl() }, header("key"), header("protocol"), header("extensions"), context);
    },
    open: (socket) => socket.subscribe(socket.getUserData().room),
    // The application's publish reaches every member; a socket's own would leave its sender out.
    message: (socket, message, binary) => app.publish(socket.getUserData().room, message, binary),
  })
  .listen("127.0.0.1", port, (listening) => {
    if (!listening) throw new Error(`${port} cannot be listened on`);
  });
