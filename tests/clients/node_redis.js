// node-redis through a VIP: `node node_redis.js NAME HOST PORT`. All options are the library's defaults but the size of
// the pool. NAME makes the application's keys its own.
'use strict';

const { createClient, createClientPool } = require('redis');
const { IDLE, Use, once, report, sleep } = require('./report.js');

const [name, host, port] = process.argv.slice(2);
const socket = { host, port: Number(port) };
const connect = (use) => use.listen(createClient({ socket })).connect();

/** Calls that share a pool, busy all the time. */
async function pool(use, clients, moved) {
  for (;;) {
    const by = await use.again(() => clients.get('whoami'));
    if (use.served(by) && by !== 'm1') moved.tell();
    await sleep(5);
  }
}

/** Connections of a pool that nobody uses while the failover happens, and that are all used together afterwards. */
async function idle(moved) {
  const use = new Use('idle');
  const clients = await use.listen(createClientPool({ socket }, { minimum: 4, maximum: 4 })).connect();
  const one = async () => use.served(await use.again(() => clients.execute((client) => client.get('whoami'))));
  const all = () => Promise.all([one(), one(), one(), one()]);
  await all();
  await moved.told;
  await sleep(IDLE);
  await all();
}

async function blocked() {
  const use = new Use('blocked');
  const client = await connect(use);
  use.served(await use.again(() => client.get('whoami')));
  use.served((await use.again(() => client.blPop(`blocked:${name}`, 0))).element);
}

async function subscribed() {
  const use = new Use('subscribed');
  const client = await connect(use);
  await use.again(() => client.subscribe('news', (message) => use.served(message)));
}

/** The first command is done, the second waits, when the member fails: a pipeline in flight. */
async function pipeline() {
  const use = new Use('pipeline');
  const client = await connect(use);
  use.served(await use.again(() => client.get('whoami')));
  use.served(await use.again(async () => {
    const results = await client.multi().incr(`tried:${name}`).blPop(`pipeline:${name}`, 0).get('whoami').execAsPipeline();
    return results[2];
  }));
}

async function main() {
  const moved = once();
  const use = new Use('pool');
  const clients = await use.listen(createClientPool({ socket }, { minimum: 2, maximum: 2 })).connect();
  for (const work of [() => pool(use, clients, moved), () => pool(use, clients, moved), () => idle(moved), blocked, subscribed, pipeline]) work();
  report('all', 'started');
}

main();
