//! Setting up and tearing down.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use sluice_block::MemoryDisk;
use sluice_nbd::{Export, Limits, Listener, ServeError, Server};
use tokio::net::{TcpStream, UnixStream};

use crate::support::Fixture;

fn server(names: &[&str]) -> Result<Server, ServeError> {
    let exports =
        names.iter().map(|name| Export::new(*name, Arc::new(MemoryDisk::new(4096)))).collect();
    Server::new(exports, Limits::default())
}

#[tokio::test]
async fn nonsense_set_ups_are_refused() {
    assert!(matches!(server(&[]), Err(ServeError::NoExports)));
    assert!(matches!(server(&["a", "a"]), Err(ServeError::DuplicateName { .. })));
    assert!(matches!(server(&[&"x".repeat(4097)]), Err(ServeError::TooLong { .. })));
    let none = server(&["a"]).unwrap().bind(&[]).await;
    assert!(matches!(none, Err(ServeError::NoListeners)));
}

#[tokio::test]
async fn the_unix_socket_is_the_owners_alone_and_goes_with_the_server() {
    let fixture = Fixture::sample().await;
    let socket = fixture.socket.clone();
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let shutdown = fixture.shutdown.clone();
    shutdown.cancel();
    fixture.served.await.unwrap();
    assert!(!socket.exists(), "the socket is removed");
    TcpStream::connect(fixture.address).await.unwrap_err();
}

#[tokio::test]
async fn a_socket_in_use_is_left_alone_and_a_stale_one_replaced() {
    let fixture = Fixture::sample().await;
    let listener = [Listener::Unix(fixture.socket.clone())];
    let second = server(&["a"]).unwrap().bind(&listener).await;
    assert!(matches!(second, Err(ServeError::InUse { .. })));
    UnixStream::connect(&fixture.socket).await.unwrap();

    let stale = fixture.dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    let bound = server(&["a"]).unwrap().bind(&[Listener::Unix(stale.clone())]).await.unwrap();
    UnixStream::connect(&stale).await.unwrap();
    drop(bound);
    assert!(!stale.exists());

    let file = fixture.dir.path().join("precious");
    std::fs::write(&file, "text").unwrap();
    let refused = server(&["a"]).unwrap().bind(&[Listener::Unix(file.clone())]).await;
    assert!(matches!(refused, Err(ServeError::NotASocket { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), b"text");
    fixture.stop().await;
}

#[tokio::test]
async fn a_socket_that_was_replaced_is_not_removed() {
    let fixture = Fixture::sample().await;
    let socket = fixture.socket.clone();
    // Moved, not removed: a freed inode number could be given to the replacement.
    std::fs::rename(&socket, fixture.dir.path().join("moved")).unwrap();
    std::fs::write(&socket, "another's").unwrap();
    fixture.shutdown.cancel();
    fixture.served.await.unwrap();
    assert_eq!(std::fs::read(&socket).unwrap(), b"another's");
}
