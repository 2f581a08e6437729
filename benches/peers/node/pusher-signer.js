// Signs what is published to a Pusher-compatible server: `node pusher-signer.js PORT SERVER_PORT APP KEY SECRET`. It takes
// POST /CHANNEL with the content as the body and passes it on with the signature that the HTTP API wants.
"use strict";

const http = require("http");
const crypto = require("crypto");

const [port, serverPort, app, key, secret] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });

function signed(path, body) {
  const md5 = crypto.createHash("md5").update(body).digest("hex");
  const now = Math.floor(Date.now() / 1000);
  const query = `auth_key=${key}&auth_timestamp=${now}&auth_version=1.0&body_md5=${md5}`;
  const signature = crypto.createHmac("sha256", secret).update(`POST\n${path}\n${query}`).digest("hex");
  return `${path}?${query}&auth_signature=${signature}`;
}

function passOn(channel, content, answer) {
  const body = JSON.stringify({ name: "message", channel, data: content });
  const options = {
    agent,
    host: "127.0.0.1",
    port: serverPort,
    method: "POST",
    path: signed(`/apps/${app}/events`, body),
    headers: { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) },
  };
  const request = http.request(options, (response) => {
    response.resume();
    response.on("end", () => answer.writeHead(response.statusCode).end("\n"));
  });
  request.on("error", () => answer.writeHead(502).end("\n"));
  request.end(body);
}

http
  .createServer((request, answer) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => passOn(request.url.slice(1), Buffer.concat(parts).toString(), answer));
  })
  .listen(Number(port), "127.0.0.1");
