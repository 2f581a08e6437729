// Runs artillery.yml on Artillery's own engine, without the command line around it, which is half a gigabyte to install:
//
//   npm install --prefix DIRECTORY @artilleryio/int-core js-yaml
//   NODE_PATH=DIRECTORY/node_modules node benches/scenarios/artillery.js ws://127.0.0.1:8080/ [SECONDS] [ARRIVALS]
//
// SECONDS and ARRIVALS (a second) replace the scenario's. Exit code 1: a client failed, or none finished.
"use strict";

const fs = require("fs");
const path = require("path");
const yaml = require("js-yaml");
const { runner } = require("@artilleryio/int-core").runner;

const [target, seconds, arrivals] = process.argv.slice(2);
if (!target) {
  console.error("usage: artillery.js ws://127.0.0.1:PORT/ [SECONDS] [ARRIVALS]");
  process.exit(2);
}
const script = yaml.load(fs.readFileSync(path.join(__dirname, "artillery.yml"), "utf8"));
script.config.target = target;
script.config.statsInterval = 1;
for (const phase of script.config.phases) {
  if (seconds) phase.duration = Number(seconds);
  if (arrivals) phase.arrivalRate = Number(arrivals);
}

function count({ counters }) {
  const figures = Object.entries(counters).sort();
  for (const [name, value] of figures) console.log(`${name.padEnd(32)} ${value}`);
  const failed = counters["vusers.failed"] || 0;
  const completed = counters["vusers.completed"] || 0;
  process.exit(failed === 0 && completed > 0 ? 0 : 1);
}

runner(script, null, {}, null).then((events) => {
  events.on("done", count);
  events.run({});
});
