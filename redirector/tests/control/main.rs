//! The control socket, with server and client over a real one, and `redirector status` on top.

use std::path::{Path, PathBuf};

use redirector::{
    control::{
        access::Access,
        server::{self, Request},
        status::{ServiceState, ServiceStatus, Status, VERSION},
    },
    datapath::peer_groups,
};
use tokio::{sync::mpsc, task::JoinSet};

mod cli;
mod events;
mod flows;
mod http;
mod metrics;
mod operator;
mod socket;
#[path = "../support/temp.rs"]
mod temp;

use temp::TempDir;

/// A served control socket, with a loop behind it that answers as an agent does. All of it ends with the guard.
struct Agent {
    socket: PathBuf,
    _directory: TempDir,
    _tasks: JoinSet<()>,
}

impl Agent {
    fn start(services: Vec<ServiceStatus>) -> Self {
        Self::start_with(move |request| {
            let Request::Status { reply, .. } = request else { panic!("{request:?}") };
            reply.send(status_of(services.clone())).expect("the server waits");
        })
    }

    /// Root may operate, and nobody else.
    fn start_with(answer: impl FnMut(Request) + Send + 'static) -> Self {
        Self::start_for(Access::new(Some("no such group"), peer_groups), answer)
    }

    fn start_for(access: Access, mut answer: impl FnMut(Request) + Send + 'static) -> Self {
        let directory = TempDir::new();
        let socket = socket_in(&directory);
        let listener = server::bind(&socket).expect("a free path");
        let (sender, mut requests) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(server::serve(listener, access, sender));
        tasks.spawn(async move {
            while let Some(request) = requests.recv().await {
                answer(request);
            }
        });
        Self { socket, _directory: directory, _tasks: tasks }
    }

    fn socket(&self) -> &Path {
        &self.socket
    }
}

fn socket_in(directory: &TempDir) -> PathBuf {
    directory.path().join("run/control.sock")
}

fn service(name: &str, state: ServiceState) -> ServiceStatus {
    ServiceStatus {
        name: name.into(),
        vips: vec!["10.255.0.1:6379".into()],
        state,
        active: None,
        epoch: 7,
        since: None,
        pinned: None,
        paused: false,
        last_switch: None,
        members: Vec::new(),
    }
}

fn status_of(services: Vec<ServiceStatus>) -> Status {
    Status {
        version: VERSION,
        services,
        outcomes: Default::default(),
        collected: Default::default(),
        resets: Default::default(),
    }
}

fn two_services() -> Vec<ServiceStatus> {
    vec![service("orders", ServiceState::Ok), service("carts", ServiceState::Degraded)]
}
