//! A crowd at a daemon's door: connections from many addresses of the loopback network, each of which
//! sends the beginning of a handshake a byte at a time, and comes again when it is thrown out.

#![allow(dead_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

/// How long one waits before it comes again.
const PAUSE: Duration = Duration::from_millis(500);
/// How often each sends a byte.
const TICK: Duration = Duration::from_millis(50);

/// A connection from an address of this machine.
pub(crate) fn connect_from(from: Ipv4Addr, port: u16) -> std::io::Result<TcpStream> {
    let made = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&made, &SocketAddrV4::new(from, 0))?;
    connect(&made, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    Ok(TcpStream::from(made))
}

/// The address of one of the crowd, none of which is 127.0.0.1.
pub(crate) fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1 + (number / 200) as u8, 1 + (number % 200) as u8)
}

/// Connections that trickle until this is dropped.
pub(crate) struct Crowd {
    stops: Arc<AtomicBool>,
    connected: Arc<AtomicUsize>,
    thrown_out: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

enum Guest {
    Away(Instant),
    There(TcpStream),
}

impl Crowd {
    /// So many connections, from so many addresses.
    pub(crate) fn gather(port: u16, count: usize, addresses: usize) -> Crowd {
        let stops = Arc::new(AtomicBool::new(false));
        let (connected, thrown_out) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let (stop, come, gone): (_, _, Arc<AtomicUsize>) =
            (stops.clone(), connected.clone(), Arc::clone(&thrown_out));
        let thread = thread::spawn(move || {
            let now = Instant::now();
            let mut guests: Vec<Guest> = (0..count).map(|_| Guest::Away(now)).collect();
            while !stop.load(Ordering::Relaxed) {
                let tick = Instant::now();
                for (number, guest) in guests.iter_mut().enumerate() {
                    match guest {
                        Guest::There(stream) if is_alive(stream) => {}
                        Guest::There(_) => {
                            gone.fetch_add(1, Ordering::Relaxed);
                            *guest = Guest::Away(tick + PAUSE);
                        }
                        Guest::Away(until) if *until <= tick => {
                            let from = address(number % addresses);
                            match connect_from(from, port).and_then(begin) {
                                Ok(stream) => {
                                    come.fetch_add(1, Ordering::Relaxed);
                                    *guest = Guest::There(stream);
                                }
                                Err(_) => *guest = Guest::Away(tick + PAUSE),
                            }
                        }
                        Guest::Away(_) => {}
                    }
                }
                thread::sleep(TICK.saturating_sub(tick.elapsed()));
            }
        });
        Crowd { stops, connected, thrown_out, thread: Some(thread) }
    }

    /// How many connections there were so far.
    pub(crate) fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }

    /// How many of them were thrown out.
    pub(crate) fn thrown_out(&self) -> usize {
        self.thrown_out.load(Ordering::Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The first bytes of a record that never becomes whole.
fn begin(mut stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.write_all(&[22, 3, 1, 2, 0])?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Sends one more byte.
fn is_alive(mut stream: &TcpStream) -> bool {
    let still_open =
        matches!(stream.read(&mut [0; 16]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    still_open && stream.write_all(&[1]).is_ok()
}
