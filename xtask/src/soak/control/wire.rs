//! The wire between a node and the server, which can be cut: in one direction, or in both.
//!
//! As where packets are lost, nobody is told. Connections stay, new ones are begun without an
//! answer, and what was sent meanwhile arrives once the wire is whole again, also what somebody
//! sent who does not wait for the answer any more.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;

/// How often is looked whether the wire is whole.
const LOOK: Duration = Duration::from_millis(20);

/// Which way is cut.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// What the node says is not heard.
    ToServer,
    /// What the server says is not heard.
    ToNode,
    Both,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::ToServer, Self::ToNode, Self::Both];
}

/// A port that stands for the server's, and can be cut off from it.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) port: u16,
    cut: Arc<Cut>,
}

/// What does not go through.
#[derive(Debug, Default)]
struct Cut {
    to_server: AtomicBool,
    to_node: AtomicBool,
}

impl Cut {
    fn way(&self, to_server: bool) -> &AtomicBool {
        if to_server { &self.to_server } else { &self.to_node }
    }
}

impl Wire {
    /// A wire to a port of this machine, for as long as this process lasts.
    pub(super) fn to(server: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (port, cut) = (listener.local_addr()?.port(), Arc::new(Cut::default()));
        let shared = cut.clone();
        std::thread::spawn(move || {
            for node in listener.incoming().flatten() {
                let cut = shared.clone();
                std::thread::spawn(move || connection(node, server, &cut));
            }
        });
        Ok(Self { port, cut })
    }

    /// Cuts it.
    pub(super) fn cut(&self, way: Way) {
        let (server, node) = match way {
            Way::ToServer => (true, false),
            Way::ToNode => (false, true),
            Way::Both => (true, true),
        };
        self.cut.to_server.store(server, Ordering::Relaxed);
        self.cut.to_node.store(node, Ordering::Relaxed);
    }

    /// Makes it whole again.
    pub(super) fn mend(&self) {
        self.cut.to_server.store(false, Ordering::Relaxed);
        self.cut.to_node.store(false, Ordering::Relaxed);
    }
}

/// Carries one connection. One of a server that is not there ends at once.
fn connection(node: TcpStream, server: u16, cut: &Arc<Cut>) {
    wait(cut, true);
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
    let (Ok(from_node), Ok(from_server)) = (node.try_clone(), server.try_clone()) else { return };
    let other = cut.clone();
    let back = std::thread::spawn(move || carry(from_server, node, &other, false));
    carry(from_node, server, cut, true);
    let _ = back.join();
}

fn wait(cut: &Cut, to_server: bool) {
    while cut.way(to_server).load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
    }
}

/// Carries what comes from one to the other until either ends.
fn carry(mut from: TcpStream, mut to: TcpStream, cut: &Cut, to_server: bool) {
    let mut bytes = [0; 16 << 10];
    loop {
        let read = match from.read(&mut bytes) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        // Neither bytes nor an end is heard of.
        wait(cut, to_server);
        if read == 0 || to.write_all(&bytes[..read]).is_err() {
            let _ = to.shutdown(Shutdown::Write);
            let _ = from.shutdown(Shutdown::Read);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    fn echo() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut &stream);
                });
            }
        });
        port
    }

    #[test]
    fn what_is_sent_while_the_wire_is_cut_arrives_when_it_is_whole() {
        let wire = Wire::to(echo()).unwrap();
        for way in Way::ALL {
            let mut node = TcpStream::connect(("127.0.0.1", wire.port)).unwrap();
            let mut heard = [0; 4];
            node.write_all(b"ping").unwrap();
            node.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"ping");
            wire.cut(way);
            node.write_all(b"more").unwrap();
            node.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            assert!(node.read_exact(&mut heard).is_err(), "{way:?} lets something through");
            wire.mend();
            node.set_read_timeout(None).unwrap();
            node.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"more");
        }
    }
}
