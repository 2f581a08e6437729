// A browser does on the demo page what leads to errors: node demo_errors.js BROWSER PORT
// Says what the page shows after each of them; where it says `cut`, `full` or `free`, it waits for a line on standard input, by which
// its connection was closed by an operator, the node was filled, or has room again.
'use strict';
const readline = require('readline');
const { chromium } = require('playwright-core');

const PATIENCE_MS = 60000;

async function main() {
  const [executablePath, port] = process.argv.slice(2);
  const input = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    page.on('pageerror', (error) => { throw error; });
    const state = (name, text) => page.waitForSelector(`#state[data-state="${name}"]:has-text("${text}")`);
    const choose = async (room) => { await page.fill('#room', room); await page.click('#rooms button'); };
    const sends = async (text) => {
      await page.fill('#text', text);
      await page.click('#send');
      await page.waitForSelector(`#log li.mine:has-text("${text}")`);
    };

    await page.goto(`http://127.0.0.1:${port}/demo?room=a%20b`);
    await state('stopped', 'in no room');
    await page.waitForSelector('#log li:has-text("bad-room")');
    await choose('lobby');
    await state('joined', 'in lobby');
    console.log('a bad name in the address');

    await choose('x y');
    await page.waitForSelector('#room[aria-invalid]');
    await state('joined', 'in lobby');
    await sends('still in the lobby');
    await choose('hall');
    await state('joined', 'in hall');
    if (!page.url().endsWith('?room=hall') || await page.$('#room[aria-invalid]')) throw new Error('not in the hall');
    await sends('in the hall now');
    console.log('a bad name in the field');

    console.log('cut');
    await input.next();
    await state('stopped', '1008');
    console.log('full');
    await input.next();
    await page.click('#rooms button');
    await state('waiting', 'refused: the node is full');
    console.log('free');
    await input.next();
    await state('joined', 'in hall');
    await sends('back in the hall');
    console.log('joined again');
  } finally {
    await browser.close();
    process.stdin.destroy();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
