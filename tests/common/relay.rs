//! Somebody on the line: carries connections on to another place, keeps what goes by, and can cut.

#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Listens at a port of this machine's own.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    /// Who spoke (true: who has connected), and the bytes.
    spoken: Vec<(bool, Vec<u8>)>,
    streams: Vec<TcpStream>,
}

impl Relay {
    /// Carries connections on to a place.
    pub(crate) fn to(place: &str) -> Relay {
        Relay::slowly_to(place, None)
    }

    /// The same, with so many bytes a second.
    pub(crate) fn slowly_to(place: &str, rate: Option<u32>) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let kept = Arc::new(Mutex::new(Kept::default()));
        let (place, keeps) = (place.to_string(), kept.clone());
        thread::spawn(move || {
            for here in listener.incoming().map_while(Result::ok) {
                let Ok(there) = TcpStream::connect(&place) else { continue };
                let clone = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
                keeps.lock().expect("it is whole").streams.extend([clone(&here), clone(&there)]);
                carry((true, rate), clone(&here), clone(&there), keeps.clone());
                carry((false, rate), there, here, keeps.clone());
            }
        });
        Relay { address, kept }
    }

    /// Every byte that went by, both ways, in the order in which it did.
    pub(crate) fn spoken(&self) -> Vec<(bool, Vec<u8>)> {
        self.kept.lock().expect("it is whole").spoken.clone()
    }

    /// All that one end has said.
    pub(crate) fn said_by(&self, caller: bool) -> Vec<u8> {
        let spoken = self.spoken().into_iter().filter(|(by_caller, _)| *by_caller == caller);
        spoken.flat_map(|(_, bytes)| bytes).collect()
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.kept.lock().expect("it is whole").streams.len() / 2
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        for stream in &self.kept.lock().expect("it is whole").streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn carry(
    (by_caller, rate): (bool, Option<u32>),
    mut from: TcpStream,
    mut into: TcpStream,
    kept: Arc<Mutex<Kept>>,
) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if let Some(rate) = rate {
                thread::sleep(Duration::from_secs_f64(n as f64 / f64::from(rate)));
            }
            let said = (by_caller, buffer[..n].to_vec());
            kept.lock().expect("it is whole").spoken.push(said);
            if into.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = into.shutdown(Shutdown::Write);
    });
}
