//! What happens every day and is no outage: each goes on until it is told that it is over, and then says what came of it, or
//! that it did not happen at all.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Host, Lab, Member, VIP_PORT, VIP_V4, Value};

/// What goes on at the same time.
type Nuisance = fn(&Lab, &Over) -> Result<String>;

const ALL: [Nuisance; 7] = [
    packets_are_lost,
    queues_fill,
    a_client_stops_reading,
    a_server_sleeps,
    a_server_forks_and_deletes,
    connections_come_and_go,
    a_container_is_rejected,
];

/// A client that has no answer within this is an outage: lost packets are sent again, servers wake up.
const PATIENCE: Duration = Duration::from_secs(15);

/// Tells everybody that it is over.
#[derive(Default)]
pub struct Over {
    is: Mutex<bool>,
    said: Condvar,
}

impl Over {
    fn say(&self) {
        *self.is.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.said.notify_all();
    }

    /// Waits for so long, or until it is over; returns whether to go on.
    fn rest(&self, time: Duration) -> bool {
        let is = self.is.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.said.wait_timeout_while(is, time, |over| !*over);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// All of them at once while `during` runs. What came of each is printed.
pub fn all_at_once<T>(lab: &Lab, during: impl FnOnce() -> Result<T>) -> Result<T> {
    let over = Over::default();
    let (result, ends) = thread::scope(|scope| {
        let threads: Vec<_> = ALL.iter().map(|nuisance| scope.spawn(|| nuisance(lab, &over))).collect();
        let result = during();
        over.say();
        // A panic in one of them is printed.
        let ends: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        (result, ends)
    });
    let result = result?;
    for end in ends {
        eprintln!("  {}", end.ok().context("a nuisance panicked")??);
    }
    Ok(result)
}

/// One in a hundred, in each direction, at random.
fn packets_are_lost(lab: &Lab, over: &Over) -> Result<String> {
    lab.router().lose(&["numgen random mod 100 == 0"])?;
    while over.rest(Duration::from_secs(1)) {}
    let lost = counter(&lab.router().nft("list table inet lose")?)?;
    ensure!(lost > 0, "no packet was lost");
    Ok(format!("{lost} packets were lost"))
}

/// The first counter in what `nft list` shows.
fn counter(shown: &str) -> Result<u64> {
    let count = shown.split_once("counter packets ").and_then(|(_, rest)| rest.split(' ').next());
    count.and_then(|count| count.parse().ok()).with_context(|| format!("no counter in {shown}"))
}

/// The links to the members are slow ones, and somebody else sends so much at once that a packet waits for 50 ms.
fn queues_fill(lab: &Lab, over: &Over) -> Result<String> {
    const RATE: usize = 50_000_000;
    const DATAGRAM: usize = 1_472;
    // With the headers; each socket may have some ninety in a queue. Some are on their way before the last one is sent.
    const DATAGRAMS: usize = RATE / 8 / 16 / (DATAGRAM + 42);
    for member in lab.members() {
        // What is beyond the limit is dropped: nobody waits for more than 52 ms.
        let shaped = "root tbf rate 50mbit burst 16kb limit 325000";
        lab.router().tc(&format!("qdisc replace dev to-{} {shaped}", member.name()))?;
        member.host().nft(
            "table inet discard { chain c { type filter hook input priority filter; udp dport 9 drop; }; }",
        )?;
    }
    let socket = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let sockets = lab.router().run(|| (0..4).map(|_| socket()).collect::<io::Result<Vec<_>>>())?;
    let mut direct = lab.app().connect(lab.member("m1").v4())?;
    direct.set_time_limit(Some(PATIENCE))?;
    let mut waits = Vec::new();
    while over.rest(Duration::from_millis(600)) {
        for member in lab.members().iter().rev() {
            for number in 0..DATAGRAMS {
                sockets[number % sockets.len()].send_to(&[0; DATAGRAM], (member.v4().ip(), 9))?;
            }
        }
        let asked = Instant::now();
        direct.command(&["PING"])?;
        waits.push(asked.elapsed());
    }
    waits.sort_unstable();
    let median = waits.get(waits.len() / 2).context("no burst")?;
    ensure!(*median > Duration::from_millis(20), "a burst delays by no more than {median:?}");
    Ok(format!("{} bursts filled the queues: an answer took {median:.1?}, half of them more", waits.len()))
}

/// It has asked for much, and then goes on to ask and never reads: the server's answers pile up.
fn a_client_stops_reading(lab: &Lab, over: &Over) -> Result<String> {
    let member = lab.member("m1");
    member.command(&["SETRANGE", "large", "262143", "x"])?;
    let (mut clients, mut piled_up) = (0, 0);
    loop {
        let mut client = client(lab.app())?;
        clients += 1;
        for _ in 0..64 {
            client.send(&["GET", "large"])?;
        }
        for _ in 0..20 {
            if !over.rest(Duration::from_millis(200)) {
                ensure!(piled_up > 1 << 20, "the server has held back {piled_up} bytes for such a client");
                return Ok(format!("{clients} clients did not read {} MB", piled_up >> 20));
            }
            client.send(&["GET", "whoami"])?;
        }
        piled_up = piled_up.max(held_back(member)?);
    }
}

/// The most that the server holds back for one client, in bytes.
fn held_back(member: &Member) -> Result<u64> {
    let clients = member.clients()?;
    let held = clients
        .iter()
        .filter_map(|client| client.split(' ').find_map(|word| word.strip_prefix("omem="))?.parse().ok());
    Ok(held.max().unwrap_or_default())
}

/// Half a second, every ten.
fn a_server_sleeps(lab: &Lab, over: &Over) -> Result<String> {
    let (mut times, mut rest) = (0, Duration::from_secs(3));
    while over.rest(rest) {
        lab.member("m1").stall(Duration::from_millis(500))?;
        (times, rest) = (times + 1, Duration::from_secs(10));
    }
    ensure!(times > 0, "the server has not slept");
    Ok(format!("the server slept {times} times"))
}

/// A replica copies a large set, for which the server forks; then the set is deleted in one command.
fn a_server_forks_and_deletes(lab: &Lab, over: &Over) -> Result<String> {
    const BATCH: usize = 5_000;
    const FILL: &str =
        "for i = ARGV[1], ARGV[1] + ARGV[2] - 1 do redis.call('SADD', KEYS[1], 'element:' .. i) end";
    let member = lab.member("m1");
    ok(&member.command(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"])?)?;
    let mut connection = member.connect()?;
    let (mut deletions, mut longest) = (0, Duration::ZERO);
    loop {
        for first in (0..400_000).step_by(BATCH) {
            connection.command(&["EVAL", FILL, "1", "set", &first.to_string(), &BATCH.to_string()])?;
        }
        copy(member)?;
        let asked = Instant::now();
        ensure!(connection.command(&["DEL", "set"])? == Value::Integer(1), "there was no set");
        longest = longest.max(asked.elapsed());
        deletions += 1;
        if !over.rest(Duration::from_secs(5)) {
            break;
        }
    }
    let forks = info(member, "stats", "total_forks")?;
    ensure!(forks >= deletions, "{forks} forks");
    Ok(format!("{forks} forks, {deletions} large deletions, of which the longest took {longest:.0?}"))
}

/// What a replica does that begins: the server forks, and the child writes to the connection.
fn copy(member: &Member) -> Result<()> {
    let mut replica = member.connect()?;
    ok(&replica.command(&["REPLCONF", "capa", "eof"])?)?;
    replica.send(&["PSYNC", "?", "-1"])?;
    // The end is marked; that nothing more comes is as good here.
    replica.set_time_limit(Some(Duration::from_secs(1)))?;
    let mut stream = replica.socket();
    match io::copy(&mut stream, &mut io::sink()) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => other.map(drop).context("the copy ended early"),
    }
}

fn info(member: &Member, section: &str, field: &str) -> Result<u64> {
    let text = member.command(&["INFO", section])?.text().context("INFO")?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("no {field} in {text}"))?.trim().parse()?)
}

fn ok(reply: &Value) -> Result<()> {
    ensure!(*reply == Value::Status("OK".into()), "{reply:?}");
    Ok(())
}

/// Each of them begins with a SYN, which is lost now and then.
fn connections_come_and_go(lab: &Lab, over: &Over) -> Result<String> {
    let mut count = 0;
    while over.rest(Duration::from_millis(30)) {
        let mut client = client(lab.app())?;
        ensure!(client.whoami()? == "m1", "a short connection is served by another member");
        count += 1;
    }
    Ok(format!("{count} short connections"))
}

fn client(host: &Host) -> Result<redirector_tests::Connection> {
    let vip = SocketAddr::from((VIP_V4, VIP_PORT));
    host.dial(vip).limit(PATIENCE).connect().context("a new connection")
}

/// A firewall answers half of a container's packets with resets, in the member's name: members look as if they refused
/// its connections, and reset those that they did not refuse.
fn a_container_is_rejected(lab: &Lab, over: &Over) -> Result<String> {
    let container = lab.container("c1")?;
    container.nft(
        "table inet marked { chain c { type filter hook output priority mangle; tcp dport 6379 \
         numgen random mod 2 == 0 ip dscp set af11; }; }",
    )?;
    lab.router().nft(
        "table inet rejected { chain c { type filter hook forward priority filter - 1; \
         ip dscp af11 meta l4proto tcp counter reject with tcp reset; }; }",
    )?;
    let (mut refused, mut reset) = (0, 0);
    while over.rest(Duration::from_millis(20)) {
        let connected = container.dial((VIP_V4, VIP_PORT)).limit(Duration::from_secs(1)).connect();
        let served = connected.and_then(|mut client| (0..10).try_for_each(|_| client.whoami().map(drop)));
        match served.map_err(|error| error.kind()) {
            Err(io::ErrorKind::ConnectionRefused) => refused += 1,
            Err(io::ErrorKind::ConnectionReset) => reset += 1,
            // Its answers are lost like everybody's.
            _ => {}
        }
    }
    ensure!(refused > 0 && reset > 0, "{refused} refused, {reset} reset");
    Ok(format!("a container was refused {refused} times, and reset {reset} times"))
}
