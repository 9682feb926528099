//! Webhooks over real HTTP: a server on the application's host that a test tells what to answer, and that keeps what it was sent.

use std::{
    collections::HashMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, Host, Offloads, Scenario, wait_until};
use serde_json::Value as Json;

use super::{SOON, START, switch};

/// Part of the URL, as of many a webhook, and nobody's business.
const TOKEN: &str = "t0ps3cret";

/// What came in a request.
#[derive(Clone, Debug)]
struct Posted {
    /// Method, target and version.
    line: String,
    /// By name, in lower case.
    headers: HashMap<String, String>,
    told: Json,
}

#[derive(Default)]
struct State {
    /// By path: code, more lines of the head, and body. None: no answer.
    answers: HashMap<&'static str, (u16, &'static str, &'static str)>,
    posted: Vec<Posted>,
}

/// It ends with the process.
struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Server {
    fn start(host: &Host) -> Result<Self> {
        let listener = host.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let (address, state) = (listener.local_addr()?, Arc::<Mutex<State>>::default());
        let shared = Arc::clone(&state);
        // A connection without an answer is held: its client is to give up.
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().flatten() {
                match serve(&stream, &shared) {
                    Ok(true) => {}
                    Ok(false) => held.push(stream),
                    Err(error) => eprintln!("webhook server: {error}"),
                }
            }
        });
        Ok(Self { address, state })
    }

    fn answers(&self, path: &'static str, code: u16, head: &'static str, body: &'static str) {
        self.lock().answers.insert(path, (code, head, body));
    }

    fn is_silent(&self, path: &str) {
        self.lock().answers.remove(path);
    }

    /// What was sent to a path so far.
    fn posted(&self, path: &str) -> Vec<Posted> {
        let of_path = |posted: &&Posted| posted.line.starts_with(&format!("POST {path}"));
        self.lock().posted.iter().filter(of_path).cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a request and answers it, if it is to be.
fn serve(stream: &TcpStream, state: &Mutex<State>) -> io::Result<bool> {
    stream.set_read_timeout(Some(SOON))?;
    let mut reader = BufReader::new(stream);
    let mut lines = reader.by_ref().lines();
    let line = lines.next().transpose()?.unwrap_or_default();
    let mut headers = HashMap::new();
    for header in lines.map_while(Result::ok).take_while(|header| !header.is_empty()) {
        if let Some((name, value)) = header.split_once(": ") {
            headers.insert(name.to_lowercase(), value.to_owned());
        }
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or_default();
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let told = serde_json::from_slice(&body).map_err(io::Error::other)?;
    let path = line.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
    let answer = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.posted.push(Posted { line, headers, told });
        state.answers.get(path.as_str()).copied()
    };
    let Some((code, head, body)) = answer else { return Ok(false) };
    let length = body.len();
    write!(&mut &*stream, "HTTP/1.1 {code} Whatever\r\nContent-Length: {length}\r\n{head}\r\n{body}")?;
    Ok(true)
}

/// The switch to m2 is refused, and why.
fn refused(agent: &Agent) -> Result<(String, Duration)> {
    let begin = Instant::now();
    let refused = agent.verb(&["switch", "orders", "m2"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1), "{said}");
    ensure!(agent.status()?["services"][0]["active"] == "m1", "the switch was made: {said}");
    Ok((said, begin.elapsed()))
}

#[test]
fn webhooks_may_veto_hang_and_hear() {
    Scenario::new(Offloads::On).run(|lab| {
        let server = Server::start(lab.app())?;
        let url = format!("http://{}", server.address);
        let hooks = [
            format!("{{ when = \"before\", url = \"{url}/may?token={TOKEN}\", timeout = \"500ms\" }}"),
            format!("{{ when = \"after\", url = \"{url}/told?token={TOKEN}\", timeout = \"500ms\" }}"),
        ];
        server.answers("/told", 302, "Location: /elsewhere\r\n", "");
        let config = lab.config().one_service().service_line(&format!("hook = [{}]", hooks.join(", ")));
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let heard = |count: usize| -> Result<Posted> {
            wait_until("the hook after the switch was told", SOON, || server.posted("/told").len() >= count)?;
            let all = server.posted("/told");
            ensure!(all.len() == count, "{all:#?}");
            all.last().cloned().context("just seen")
        };
        let first = heard(1)?;
        ensure!(first.line == format!("POST /told?token={TOKEN} HTTP/1.1"), "{first:?}");
        ensure!(first.headers["host"] == server.address.to_string(), "{first:?}");
        ensure!(first.headers["content-type"] == "application/json", "{first:?}");
        let told = &first.told;
        ensure!(told["version"] == 1 && told["service"] == "orders" && told["epoch"] == 1, "{told:#}");
        ensure!(told["kind"] == "initial" && told["from"].is_null() && told["to"] == "m1", "{told:#}");
        // A redirect is an answer, and no good one.
        agent.wait_logged(&["hook", &url, "status 302"], SOON)?;

        server.answers("/may", 409, "", "change freeze\nuntil Monday\n");
        let (said, _) = refused(&agent)?;
        ensure!(said.contains(&format!("hook \"{url}\" vetoed: change freeze (status 409)")), "{said}");
        let asked = server.posted("/may");
        ensure!(asked.len() == 1, "{asked:#?}");
        let told = &asked[0].told;
        ensure!(told["when"] == "before" && told["kind"] == "manual" && told["epoch"] == 2, "{told:#}");
        ensure!(told["from"] == "m1" && told["to"] == "m2", "{told:#}");

        // An error page is nobody's word, and neither is silence: both are no answer, which vetoes by default.
        server.answers("/may", 503, "", "<h1>change freeze</h1>");
        let (said, _) = refused(&agent)?;
        ensure!(said.contains("gave no answer: status 503") && !said.contains("freeze"), "{said}");
        server.is_silent("/may");
        let (said, took) = refused(&agent)?;
        ensure!(said.contains("gave no answer: not done within 500ms"), "{said}");
        ensure!((Duration::from_millis(500)..Duration::from_secs(3)).contains(&took), "{took:?}");

        server.answers("/may", 204, "", "");
        switch(&agent, "m2")?;
        let told = heard(2)?.told;
        ensure!(told["when"] == "after" && told["kind"] == "manual" && told["epoch"] == 2, "{told:#}");
        ensure!(told["from"] == "m1" && told["to"] == "m2", "{told:#}");
        ensure!(server.posted("/may").len() == 4, "each was asked once");

        // A failover asks nobody, whatever would be said; and a server that hangs after it holds nothing up.
        server.answers("/may", 403, "", "no");
        server.is_silent("/told");
        let crash = Instant::now();
        lab.member("m2").crash()?;
        agent.wait_active("m1", SOON)?;
        ensure!(crash.elapsed() < SOON, "{:?}", crash.elapsed());
        ensure!(heard(3)?.told["kind"] == "failover");
        agent.wait_logged(&["hook", &url, "not done within 500ms"], SOON)?;
        ensure!(server.posted("/may").len() == 4 && server.posted("/elsewhere").is_empty());
        let log = agent.log();
        ensure!(!log.contains(TOKEN), "a token is told: {log}");
        Ok(())
    });
}
