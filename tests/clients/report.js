// What the JavaScript clients share: JSON lines on standard output, and an application that goes on after an error. See
// report.py for the lines. `event` is what the library says by its event `error`.
'use strict';

/** What an application waits before it calls again after an error, in milliseconds. */
const AGAIN = 10;
/** How long an idle connection stays unused after the failover, in milliseconds. */
const IDLE = 300;

const sleep = (time) => new Promise((done) => setTimeout(done, time));

/** One line. `process.hrtime` is CLOCK_MONOTONIC. */
function report(use, event, more) {
  const at = Number(process.hrtime.bigint()) / 1e9;
  process.stdout.write(JSON.stringify({ at, use, event, ...more }) + '\n');
}

/** What an error is called: libraries name theirs by class, the system's have a code in their text. */
const told = (error) => ({ type: error.constructor.name, text: error.message });

/** One use of a client: reports who serves it, when that changes or an error came between. */
class Use {
  constructor(name) {
    this.name = name;
    this.by = undefined;
  }

  /** Answers whether this is news. */
  served(by) {
    const news = by !== this.by;
    this.by = by;
    if (news) report(this.name, 'served', { by });
    return news;
  }

  /** Listens to the event `error`, as every application must. */
  listen(client) {
    client.on('error', (error) => report(this.name, 'event', told(error)));
    return client;
  }

  /** Calls until there is an answer. */
  async again(call) {
    for (;;) {
      try {
        return await call();
      } catch (error) {
        this.by = undefined;
        report(this.name, 'error', told(error));
        await sleep(AGAIN);
      }
    }
  }
}

/** Something that happens once. */
function once() {
  let tell;
  const told = new Promise((done) => { tell = done; });
  return { tell, told };
}

module.exports = { IDLE, Use, once, report, sleep };
