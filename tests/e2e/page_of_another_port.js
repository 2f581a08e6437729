// A browser opens pages with the client of docs/protocol.md that connect to gateways: node page_of_another_port.js BROWSER PORT
// [URL ORIGIN]... PORT serves the pages. Each pair is a gateway's URL and where its page comes from: a name of this host, or `file`.
// Says for each pair what the page logged: `hello`, its own message, or the status of the refused upgrade.
'use strict';
const fs = require('fs');
const http = require('http');
const os = require('os');
const path = require('path');
const { chromium } = require('playwright-core');

const PATIENCE_MS = 60000;

function pageFor(url) {
  const text = fs.readFileSync(path.join(__dirname, '../../docs/protocol.md'), 'utf8');
  const section = text.split('\n## A browser client\n')[1].split('\n## ')[0];
  const [client, use] = [...section.matchAll(/```js\n(.*?)```/gs)].map((block) => block[1]);
  return `<!doctype html><meta charset="utf-8"><script>${client}\n${use.replace('ws://127.0.0.1:8080/', url)}</script>`;
}

async function logged(browser, address) {
  const page = await browser.newPage();
  try {
    const log = page.waitForEvent('console', { timeout: PATIENCE_MS });
    await page.goto(address);
    const text = (await log).text();
    return /Unexpected response code: (\d+)/.exec(text)?.[1] ?? text;
  } finally {
    await page.close();
  }
}

async function main() {
  const [executablePath, port, ...pairs] = process.argv.slice(2);
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'tidegate-page-'));
  const server = http.createServer((request, response) => {
    response.setHeader('Content-Type', 'text/html');
    response.end(pageFor(decodeURIComponent(request.url.slice(2))));
  });
  await new Promise((resolve) => { server.listen(Number(port), 'localhost', resolve); });
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
  try {
    for (let at = 0; at < pairs.length; at += 2) {
      const [url, origin] = pairs.slice(at, at + 2);
      const file = path.join(folder, `${at}.html`);
      fs.writeFileSync(file, pageFor(url));
      const address = origin === 'file' ? `file://${file}` : `http://${origin}:${port}/?${encodeURIComponent(url)}`;
      console.log(`${origin}: ${await logged(browser, address)}`);
    }
  } finally {
    await browser.close();
    server.close();
    fs.rmSync(folder, { recursive: true });
    process.stdin.destroy();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
