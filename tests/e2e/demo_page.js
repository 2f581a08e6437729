// A browser opens the demo page of two nodes: node demo_page.js BROWSER PORT PORT
// Says `crossed` when each page saw the other's message, `disconnected` when the second page noticed that its node is gone;
// then waits for a line on standard input, by which the node is back, and says `crossed again` without having touched the page.
'use strict';
const readline = require('readline');
const { chromium } = require('playwright-core');

const PATIENCE_MS = 60000;

async function open(browser, port) {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.on('pageerror', (error) => { throw error; });
  await page.goto(`http://127.0.0.1:${port}/demo?room=browsers`);
  await joined(page);
  return page;
}

const joined = (page) => page.waitForSelector('#state[data-state="joined"]');

async function cross(from, to, text) {
  await from.fill('#text', text);
  await from.click('#send');
  for (const page of [from, to]) await page.waitForSelector(`#log li:has-text("${text}")`);
}

async function main() {
  const [executablePath, one, two] = process.argv.slice(2);
  const input = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
  try {
    const [first, second] = [await open(browser, one), await open(browser, two)];
    await cross(first, second, 'hello from the first');
    await cross(second, first, 'hello from the second');
    console.log('crossed');
    await second.waitForSelector('#state:not([data-state="joined"])');
    console.log('disconnected');
    await input.next();
    await joined(second);
    await cross(first, second, 'welcome back');
    await cross(second, first, 'good to be back');
    console.log('crossed again');
  } finally {
    await browser.close();
    process.stdin.destroy();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
