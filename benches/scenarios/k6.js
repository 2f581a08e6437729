// tidegate under k6 (not run here: k6 comes from none of the registries that this project's checks use). Start a gateway and run
//
//   k6 run -e URL=ws://127.0.0.1:8080/ benches/scenarios/k6.js
//
// Every user joins a room, talks in it each second, and times its own messages' way back.
import { check } from "k6";
import { Counter, Trend } from "k6/metrics";
import ws from "k6/ws";

const url = __ENV.URL || "ws://127.0.0.1:8080/";
const roundTrip = new Trend("tidegate_round_trip", true);
const deliveries = new Counter("tidegate_deliveries");

export const options = {
  stages: [
    { duration: "10s", target: 200 },
    { duration: "30s", target: 200 },
    { duration: "5s", target: 0 },
  ],
  thresholds: { tidegate_round_trip: ["p(99)<100"], checks: ["rate>0.99"] },
};

export default function () {
  const roomId = `k6.${__VU % 20}`;
  const response = ws.connect(url, {}, (socket) => {
    socket.on("message", (text) => {
      const message = JSON.parse(text);
      if (message.type === "welcome") {
        socket.send(JSON.stringify({ type: "join", roomId }));
      } else if (message.type === "joined") {
        socket.setInterval(() => {
          const content = { user: __VU, at: Date.now() };
          socket.send(JSON.stringify({ type: "message", roomId, content }));
        }, 1000);
      } else if (message.type === "message") {
        deliveries.add(1);
        if (message.content.user === __VU) roundTrip.add(Date.now() - message.content.at);
      }
    });
    socket.setTimeout(() => socket.close(), 15000);
  });
  check(response, { "upgraded with 101": (answer) => answer && answer.status === 101 });
}
