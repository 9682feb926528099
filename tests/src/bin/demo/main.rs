//! `cargo xtask demo`: an application goes on while its Redis dies, live and in the lab.
//!
//! Everything is real and made for this run: hosts, servers, clients and the agent. Every figure is measured by the
//! clients. The exit code is 0 only if the application, the blocked client and the subscriber were served all the
//! way as they should.

use std::{
    io,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

mod clients;
mod screen;
mod stage;
mod story;
mod summary;
mod tally;
mod words;

/// Shows a failover and a failback, live: an application that goes on while its Redis dies
#[derive(Parser)]
#[command(bin_name = "cargo xtask demo")]
struct Arguments {
    /// What happens to the active member
    #[arg(long, value_enum, default_value_t = Fault::Crash)]
    fault: Fault,
}

/// What happens to the active member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// Its redis-server is killed; its host lives and refuses connections
    Crash,
    /// Its redis-server stops; its host goes on to accept connections and to acknowledge data
    Freeze,
    /// Every packet from and to it vanishes without a word
    BlackHole,
}

/// Set by Ctrl-C and the signals that mean the same; looked at wherever the demo waits.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

fn main() -> ExitCode {
    let Arguments { fault } = Arguments::parse();
    if let Err(error) = watch_signals() {
        return failed(&error.into());
    }
    let mut screen = screen::Screen::new();
    // Whatever the story was, everything that it made is gone when this returns.
    let result = story::tell(fault, &mut screen);
    screen.end_live();
    match result {
        Err(error) if nobody_reads(&error) => ExitCode::FAILURE,
        Err(error) => failed(&error),
        Ok(()) if interrupted() => {
            eprintln!("\ninterrupted");
            // 128 + SIGINT, as a shell has it.
            ExitCode::from(130)
        }
        Ok(()) => ExitCode::SUCCESS,
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("\nerror: {error:#}");
    ExitCode::FAILURE
}

/// `cargo xtask demo | head`: nobody is left to complain to.
fn nobody_reads(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Takes SIGINT, SIGTERM and SIGHUP on a thread of its own. They end nothing by themselves: the demo does, in order.
fn watch_signals() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [mut interrupt, mut terminate, mut hangup] = {
        let _in_runtime = runtime.enter();
        let [one, two, three] = kinds.map(signal);
        [one?, two?, three?]
    };
    thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
        })
    })?;
    Ok(())
}
