// A plain ws program, which knows of the gateway no more than its JSON: node node_client.js PORT PORT
// Two of them, perhaps on two nodes: each joins a room, says something and reads what the other said.
'use strict';
const WebSocket = require('ws');

const patience = setTimeout(() => fail('nothing came in 30 s'), 30000);

function fail(why) {
  console.error(why);
  process.exit(1);
}

function participant(port, name, onMessage) {
  const socket = new WebSocket(`ws://127.0.0.1:${port}`);
  socket.on('open', () => socket.send(JSON.stringify({ type: 'join', roomId: 'general' })));
  socket.on('message', (data) => {
    const message = JSON.parse(data);
    if (message.type === 'error') fail(message.message);
    if (message.type === 'joined') socket.emit('in');
    if (message.type === 'message') onMessage(message);
  });
  socket.on('error', (error) => fail(`${name}: ${error.message}`));
  socket.say = (content) => socket.send(JSON.stringify({ type: 'message', roomId: 'general', content }));
  return socket;
}

const [onePort, twoPort] = process.argv.slice(2);
const heard = { one: [], two: [] };

function judge() {
  const expected = ['hello from one', { from: 'two', list: [1, 2] }];
  if (heard.one.length < 2 || heard.two.length < 2) return;
  for (const contents of Object.values(heard)) {
    if (JSON.stringify(contents) !== JSON.stringify(expected)) fail(JSON.stringify(heard));
  }
  let open = 2;
  for (const socket of [one, two]) {
    socket.on('close', (code) => {
      if (code !== 1000) fail(`closed with ${code}`);
      if (--open === 0) {
        clearTimeout(patience);
        console.log('ok');
      }
    });
    socket.close(1000);
  }
}

const one = participant(onePort, 'one', (message) => {
  heard.one.push(message.content);
  judge();
});
let two;
one.once('in', () => {
  two = participant(twoPort, 'two', (message) => {
    heard.two.push(message.content);
    if (heard.two.length === 1) two.say({ from: 'two', list: [1, 2] });
    judge();
  });
  two.once('in', () => one.say('hello from one'));
});
