// ioredis through a VIP: `node ioredis.js NAME HOST PORT`. All options are the library's defaults. ioredis has no pool:
// calls share a connection. NAME makes the application's keys its own.
'use strict';

const Redis = require('ioredis');
const { IDLE, Use, once, report, sleep } = require('./report.js');

const [name, host, port] = process.argv.slice(2);
const connect = (use) => use.listen(new Redis({ host, port: Number(port) }));

/** Calls that share a connection, busy all the time. */
async function pool(use, redis, moved) {
  for (;;) {
    const by = await use.again(() => redis.get('whoami'));
    if (use.served(by) && by !== 'm1') moved.tell();
    await sleep(5);
  }
}

/** A connection that nobody uses while the failover happens. */
async function idle(moved) {
  const use = new Use('idle');
  const redis = connect(use);
  use.served(await use.again(() => redis.get('whoami')));
  await moved.told;
  await sleep(IDLE);
  use.served(await use.again(() => redis.get('whoami')));
}

async function blocked() {
  const use = new Use('blocked');
  const redis = connect(use);
  use.served(await use.again(() => redis.get('whoami')));
  use.served((await use.again(() => redis.blpop(`blocked:${name}`, 0)))[1]);
}

async function subscribed() {
  const use = new Use('subscribed');
  const redis = connect(use);
  redis.on('message', (_, message) => use.served(message));
  await use.again(() => redis.subscribe('news'));
}

/** The first command is done, the second waits, when the member fails: a pipeline in flight. */
async function pipeline() {
  const use = new Use('pipeline');
  const redis = connect(use);
  use.served(await use.again(() => redis.get('whoami')));
  use.served(await use.again(async () => {
    const results = await redis.pipeline().incr(`tried:${name}`).blpop(`pipeline:${name}`, 0).get('whoami').exec();
    const failed = results.find(([error]) => error);
    if (failed) throw failed[0];
    return results[2][1];
  }));
}

const moved = once();
const use = new Use('pool');
const redis = connect(use);
for (const work of [() => pool(use, redis, moved), () => pool(use, redis, moved), () => idle(moved), blocked, subscribed, pipeline]) work();
report('all', 'started');
