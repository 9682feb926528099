//! The socket in the file system.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
};

use redirector::control::{
    client::{self, ClientError},
    server,
};

use crate::{Agent, socket_in, temp::TempDir, two_services};

#[tokio::test]
async fn everybody_may_connect() {
    let directory = TempDir::new();
    let socket = socket_in(&directory);
    let _listener = server::bind(&socket).unwrap();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o666);
}

#[tokio::test]
async fn the_file_goes_with_its_listener() {
    let directory = TempDir::new();
    let socket = socket_in(&directory);
    drop(server::bind(&socket).unwrap());
    assert!(!socket.exists());
}

/// An agent that stops late must not take the socket of its successor away.
#[tokio::test]
async fn a_file_that_was_replaced_stays() {
    let directory = TempDir::new();
    let socket = socket_in(&directory);
    let old = server::bind(&socket).unwrap();
    // Kept under another name, so that its inode is not used again.
    fs::rename(&socket, directory.path().join("old")).unwrap();
    let _new = server::bind(&socket).unwrap();
    drop(old);
    assert!(socket.exists());
}

#[tokio::test]
async fn the_socket_of_an_agent_that_was_killed_is_replaced() {
    let directory = TempDir::new();
    let socket = socket_in(&directory);
    fs::create_dir(socket.parent().unwrap()).unwrap();
    // The standard library's listener leaves its file behind.
    drop(UnixListener::bind(&socket).unwrap());
    assert_eq!(
        client::status(&socket, None).await.unwrap_err(),
        ClientError::NotRunning { socket: socket.clone() }
    );
    let _listener = server::bind(&socket).unwrap();
}

#[tokio::test]
async fn the_socket_of_an_agent_that_lives_is_left_alone() {
    let agent = Agent::start(two_services());
    let error = server::bind(agent.socket()).unwrap_err();
    assert!(error.to_string().contains("another agent answers on it"), "{error:#}");
    client::status(agent.socket(), None).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = TempDir::new();
    let path = directory.path().join("precious");
    fs::write(&path, "text").unwrap();
    let error = server::bind(&path).unwrap_err();
    assert!(error.to_string().contains("something else than a socket"), "{error:#}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "text");
}

#[tokio::test]
async fn a_path_that_is_too_long_is_a_clear_error() {
    let directory = TempDir::new();
    let error = server::bind(&directory.path().join("x".repeat(120))).unwrap_err();
    assert!(error.to_string().contains("at most 107 bytes"), "{error:#}");
}
