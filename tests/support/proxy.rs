//! A proxy in front of the real broker, for faults that the broker can't be made to show at a
//! chosen moment.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::broker::Vhost;

/// What goes wrong with a connection. The numbers count bytes from the client, including the
/// handshake (about 500).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// After this many bytes the connection ends; the broker never gets the next one.
    Cut(u64),
    /// After this many bytes, the connection ends with the broker's next bytes: what the client has
    /// sent has arrived, but the broker's answer to it does not.
    CutAnswer(u64),
    /// After this many bytes, nothing comes back any more, and the connection stays open.
    Silence(u64),
}

/// The proxy: forwards in both directions, and ends with the test's process.
pub(crate) struct Proxy {
    url: String,
    next: Arc<Mutex<Option<Fault>>>,
    happened: Arc<AtomicBool>,
}

impl Proxy {
    /// A proxy in front of the plain port of a vhost's broker.
    pub(crate) fn before(vhost: &Vhost) -> Self {
        let broker = vhost.address();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own = listener.local_addr().expect("its address").to_string();
        let proxy = Self {
            url: vhost.url().replacen(&broker, &own, 1),
            next: Arc::new(Mutex::new(None)),
            happened: Arc::new(AtomicBool::new(false)),
        };
        let (next, happened) = (proxy.next.clone(), proxy.happened.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(broker) = TcpStream::connect(&broker) else { continue };
                let fault = next.lock().expect("nobody panics with it").take();
                connect(&client, &broker, fault, &happened);
            }
        });
        proxy
    }

    /// `RABBITMQ_HOST` for a site that goes through the proxy.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Gives the next connection this fault, and only that one.
    pub(crate) fn break_next(&self, fault: Fault) {
        self.happened.store(false, Ordering::SeqCst);
        *self.next.lock().expect("nobody panics with it") = Some(fault);
    }

    /// True when the fault has happened.
    pub(crate) fn has_broken(&self) -> bool {
        self.happened.load(Ordering::SeqCst)
    }
}

fn connect(
    client: &TcpStream,
    broker: &TcpStream,
    fault: Option<Fault>,
    happened: &Arc<AtomicBool>,
) {
    let both = || (client.try_clone().expect("a handle"), broker.try_clone().expect("a handle"));
    let sent = Arc::new(AtomicU64::new(0));
    let (from, to) = both();
    let (count, shown) = (sent.clone(), happened.clone());
    thread::spawn(move || {
        forward(&from, &to, |chunk| {
            let before = count.fetch_add(chunk.len() as u64, Ordering::SeqCst);
            match fault {
                Some(Fault::Cut(bytes)) if before + chunk.len() as u64 > bytes => {
                    shown.store(true, Ordering::SeqCst);
                    // At most the length of the chunk, by the line above.
                    Next::Cut(
                        usize::try_from(bytes.saturating_sub(before)).expect("a small number"),
                    )
                }
                Some(Fault::Silence(_)) => Next::Offer,
                _ => Next::Forward,
            }
        });
    });
    let (to, from) = both();
    let shown = happened.clone();
    thread::spawn(move || {
        forward(&from, &to, |_| match fault {
            Some(Fault::CutAnswer(bytes)) if sent.load(Ordering::SeqCst) >= bytes => {
                shown.store(true, Ordering::SeqCst);
                Next::Cut(0)
            }
            Some(Fault::Silence(bytes)) if sent.load(Ordering::SeqCst) >= bytes => {
                shown.store(true, Ordering::SeqCst);
                Next::Swallow
            }
            _ => Next::Forward,
        });
    });
}

/// What happens to some bytes.
enum Next {
    Forward,
    /// They are forwarded; the connection stays open even if the other side takes no more.
    Offer,
    /// They are dropped, and the connection stays open even if their sender ends it.
    Swallow,
    /// This many of them are forwarded, then both connections end.
    Cut(usize),
}

/// One direction, until either side ends it.
fn forward(mut from: &TcpStream, mut to: &TcpStream, mut decide: impl FnMut(&[u8]) -> Next) {
    let mut buffer = [0; 16 * 1024];
    let mut stays = false;
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let chunk = &buffer[..length];
        let written = match decide(chunk) {
            Next::Forward => to.write_all(chunk),
            Next::Offer => to.write_all(chunk).or(Ok(())),
            Next::Swallow => {
                stays = true;
                Ok(())
            }
            Next::Cut(rest) => {
                drop(to.write_all(&chunk[..rest]));
                break;
            }
        };
        if written.is_err() {
            break;
        }
    }
    if stays {
        return;
    }
    for stream in [from, to] {
        drop(stream.shutdown(Shutdown::Both));
    }
}
