//! Carries bytes between a socket of this process and a TLS connection, from a thread of its own: so
//! whoever reads and writes a line need not know what carries it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::Connection;

use super::pieces::{HEADER, Joiner, PIECE_MAX, SIGN_OF_LIFE, put_header};
use super::tls::{Secured, TlsError};

/// How long nothing may come: the other end gives a sign of life, however busy it is.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often is looked whether a connection is over.
const GLANCE: Duration = Duration::from_millis(2);
/// Bytes that are taken at a time, and that may wait to be encrypted.
const STEP: usize = 256 << 10;

/// A connection at work. It is over when everything has left and both ends of the line have closed it.
#[derive(Debug)]
pub struct Pump {
    thread: JoinHandle<Result<(), TlsError>>,
    stream: TcpStream,
}

impl Pump {
    /// Waits a while for the other end to close its side, too, and says whether it did.
    pub fn ends_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(GLANCE);
        }
        true
    }

    /// The same; after that it is cut. Says why if it broke before this end had closed its side.
    pub fn finish(self, patience: Duration) -> Result<(), TlsError> {
        if !self.ends_within(patience) {
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        let failed = |_| Err(io::Error::other("the thread of the connection failed").into());
        self.thread.join().unwrap_or_else(failed)
    }
}

impl Secured {
    /// The two descriptors of a line over this connection: what comes, and where to write.
    pub fn pump(self) -> io::Result<(Pump, OwnedFd, OwnedFd)> {
        self.pump_within(SILENCE_MAX)
    }

    /// The same, cut after so much silence. A third of it without a word, and a sign of life is sent.
    pub fn pump_within(self, silence: Duration) -> io::Result<(Pump, OwnedFd, OwnedFd)> {
        let (near, far) = UnixStream::pair()?;
        let output = near.try_clone()?;
        far.set_nonblocking(true)?;
        self.stream.set_nonblocking(true)?;
        let Secured { mut connection, stream, .. } = self;
        let other = stream.try_clone()?;
        connection.set_buffer_limit(Some(STEP));
        let now = Instant::now();
        let work = Work {
            connection,
            stream,
            near: far,
            joiner: Joiner::default(),
            arrived: vec![0; STEP],
            end: 0,
            passed: 0,
            buffer: vec![0; HEADER + PIECE_MAX],
            near_ended: false,
            far_ended: false,
            gone: false,
            silence,
            heard: now,
            spoke: now,
        };
        let thread = thread::Builder::new().name("tls".into()).spawn(move || work.run())?;
        Ok((Pump { thread, stream: other }, near.into(), output.into()))
    }
}

struct Work {
    connection: Connection,
    stream: TcpStream,
    /// This process's side of the line.
    near: UnixStream,
    joiner: Joiner,
    /// What has come and been decrypted, up to `end`; of this, `passed` bytes have gone on.
    arrived: Vec<u8>,
    end: usize,
    passed: usize,
    buffer: Vec<u8>,
    /// Whether this process has closed its side.
    near_ended: bool,
    /// Whether the other end has closed its side.
    far_ended: bool,
    /// Whether the connection broke after everything was said.
    gone: bool,
    /// How long nothing may come.
    silence: Duration,
    heard: Instant,
    spoke: Instant,
}

impl Work {
    fn run(mut self) -> Result<(), TlsError> {
        let result = self.carry();
        // Whoever waits for the line hears that it has ended.
        let _ = self.near.shutdown(Shutdown::Both);
        let _ = self.stream.shutdown(Shutdown::Both);
        result
    }

    fn carry(&mut self) -> Result<(), TlsError> {
        loop {
            self.deliver()?;
            self.send()?;
            if self.is_over() {
                return Ok(());
            }
            let (far, near) = self.wait()?;
            if far {
                self.hear()?;
            }
            if near {
                self.encrypt()?;
            }
        }
    }

    /// Whether nobody has anything to say any more, or nobody waits for it.
    fn is_over(&self) -> bool {
        let all_said = self.near_ended && !self.connection.wants_write();
        self.gone || all_said && self.far_ended
    }

    fn has_arrived(&self) -> bool {
        self.passed < self.end
    }

    /// Takes what has been decrypted and hands it on, as far as this process takes it.
    fn deliver(&mut self) -> Result<(), TlsError> {
        self.pass_on();
        while !self.has_arrived() && !self.far_ended {
            let read = self.connection.reader().read(&mut self.arrived);
            match read {
                Ok(0) => self.far_ended = true,
                Ok(n) => {
                    (self.passed, self.end) = (0, self.joiner.join(&mut self.arrived[..n]));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The other end is gone without a goodbye: the session knows whether it was done.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.far_ended = true,
                Err(error) => return Err(error.into()),
            }
            self.pass_on();
        }
        Ok(())
    }

    /// Hands on to this process what has come.
    fn pass_on(&mut self) {
        while self.has_arrived() {
            match self.near.write(&self.arrived[self.passed..self.end]) {
                Ok(n) => self.passed += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody wants to hear it.
                Err(_) => self.passed = self.end,
            }
        }
        if self.far_ended {
            let _ = self.near.shutdown(Shutdown::Write);
        }
    }

    fn send(&mut self) -> Result<(), TlsError> {
        let is_quiet = !self.near_ended && !self.connection.wants_write();
        if is_quiet && self.spoke.elapsed() > self.silence / 3 {
            self.connection.writer().write_all(&SIGN_OF_LIFE)?;
            self.spoke = Instant::now();
        }
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.stream) {
                Ok(_) => self.spoke = Instant::now(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.broke(error),
            }
        }
        if self.near_ended {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<(), TlsError> {
        match self.connection.read_tls(&mut self.stream) {
            // That it has ended shows once everything before it is taken.
            Ok(0) => {}
            Ok(_) => self.heard = Instant::now(),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(());
            }
            Err(error) => return self.broke(error),
        }
        match self.connection.process_new_packets() {
            Ok(_) => Ok(()),
            Err(error) => {
                // An alert may wait.
                let _ = self.connection.write_tls(&mut self.stream);
                Err(TlsError::from_rustls(error))
            }
        }
    }

    /// A connection that breaks when everything was said has ended, no more.
    fn broke(&mut self, error: io::Error) -> Result<(), TlsError> {
        if !self.near_ended {
            // What came before it broke may say why.
            let _ = self.connection.read_tls(&mut self.stream);
            self.connection.process_new_packets().map_err(TlsError::from_rustls)?;
            return Err(error.into());
        }
        self.gone = true;
        Ok(())
    }

    /// Takes what this process has written.
    fn encrypt(&mut self) -> Result<(), TlsError> {
        match self.near.read(&mut self.buffer[HEADER..]) {
            Ok(n @ 1..) => {
                put_header(&mut self.buffer, n);
                Ok(self.connection.writer().write_all(&self.buffer[..HEADER + n])?)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(())
            }
            // It is done, or gone.
            Ok(0) | Err(_) => {
                self.near_ended = true;
                self.connection.send_close_notify();
                Ok(())
            }
        }
    }

    /// Waits until something can be done; says whether the connection, and whether this process,
    /// has something to be read.
    fn wait(&mut self) -> Result<(bool, bool), TlsError> {
        // What nobody takes here should wait at the other end.
        let hears = !self.has_arrived() && !self.far_ended;
        if !hears {
            self.heard = Instant::now();
        }
        if self.heard.elapsed() > self.silence {
            return Err(TlsError::Silent(self.silence));
        }
        // While there is something to send, no sign of life resets this.
        if self.connection.wants_write() && self.spoke.elapsed() > self.silence {
            return Err(TlsError::Stalled(self.silence));
        }
        let (wants_write, takes) = (self.connection.wants_write(), !self.near_ended);
        let flag = |on: bool, flag: PollFlags| if on { flag } else { PollFlags::empty() };
        let far = flag(hears, PollFlags::IN) | flag(wants_write, PollFlags::OUT);
        let near =
            flag(takes && !wants_write, PollFlags::IN) | flag(self.has_arrived(), PollFlags::OUT);
        let (stream, socket) = (self.stream.as_fd(), self.near.as_fd());
        // Often enough for what is measured here.
        let nap = (self.silence / 12).min(Duration::from_secs(1));
        let nap = Timespec { tv_sec: nap.as_secs() as i64, tv_nsec: nap.subsec_nanos().into() };
        let mut fds = Vec::with_capacity(2);
        if !far.is_empty() {
            fds.push(PollFd::new(&stream, far));
        }
        if !near.is_empty() {
            fds.push(PollFd::new(&socket, near));
        }
        match poll(&mut fds, Some(&nap)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = |asked: PollFlags| !asked.is_empty() && ready.next().unwrap_or(false);
        let (far_ready, near_ready) = (next(far), next(near));
        Ok((far_ready && hears, near_ready && takes && !wants_write))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::sync::Arc;

    use super::*;
    use crate::identity::{MachineKey, PublicKey};
    use crate::transport::Judge;

    const LIMIT: Duration = Duration::from_secs(10);

    fn key(byte: u8) -> MachineKey {
        MachineKey::from_secret(&[byte; 32]).unwrap()
    }

    fn wants(key: PublicKey) -> Judge {
        Arc::new(move |other| *other == key)
    }

    /// What comes of a connection between two machines that want these keys of each other.
    fn joined(
        client_wants: PublicKey,
        server_wants: PublicKey,
    ) -> (Result<Secured, TlsError>, Result<Secured, TlsError>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = thread::spawn(move || {
            let stream = listener.accept().unwrap().0;
            Secured::accept(stream, &key(2), wants(server_wants), LIMIT)
        });
        let client = Secured::connect(stream, &key(1), wants(client_wants), LIMIT);
        (client, server.join().unwrap())
    }

    #[test]
    fn what_goes_in_at_one_end_comes_out_at_the_other_and_then_it_ends() {
        let (client, server) = joined(key(2).public(), key(1).public());
        let (client, server) = (client.unwrap(), server.unwrap());
        assert_eq!((client.peer(), server.peer()), (key(2).public(), key(1).public()));
        let (client, input, output) = client.pump().unwrap();
        let (server, far_input, far_output) = server.pump().unwrap();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n ^ n >> 8) as u8).collect();
        let sent = bytes.clone();
        let writing = thread::spawn(move || {
            let mut output = File::from(output);
            output.write_all(&sent).unwrap();
            // Both descriptors of this end are closed.
            drop((output, input));
        });
        let mut received = Vec::new();
        let mut far_input = File::from(far_input);
        far_input.read_to_end(&mut received).unwrap();
        assert!(received == bytes);
        drop((far_input, far_output));
        writing.join().unwrap();
        client.finish(LIMIT).unwrap();
        server.finish(LIMIT).unwrap();
    }

    #[test]
    fn silence_is_no_reason_to_end_a_line_but_no_sign_of_life_is() {
        let silence = Duration::from_millis(600);
        let (client, server) = joined(key(2).public(), key(1).public());
        let (client, input, output) = client.unwrap().pump_within(silence).unwrap();
        let (far, far_input, far_output) = server.unwrap().pump_within(silence).unwrap();
        thread::sleep(4 * silence);
        let mut word = [0; 4];
        File::from(output.try_clone().unwrap()).write_all(b"word").unwrap();
        File::from(far_input).read_exact(&mut word).unwrap();
        assert_eq!(&word, b"word");
        drop((far_output, input, output));
        far.finish(LIMIT).unwrap();
        client.finish(LIMIT).unwrap();
        let (client, server) = joined(key(2).public(), key(1).public());
        let _frozen = server.unwrap();
        let (client, input, _output) = client.unwrap().pump_within(silence).unwrap();
        assert_eq!(File::from(input).read(&mut word).unwrap(), 0);
        assert!(matches!(client.finish(LIMIT), Err(TlsError::Silent(_))));
    }

    #[test]
    fn who_takes_nothing_is_cut_off_whatever_signs_of_life_it_gives() {
        let silence = Duration::from_millis(600);
        let (client, server) = joined(key(2).public(), key(1).public());
        let (client, _input, output) = client.unwrap().pump_within(silence).unwrap();
        let Secured { mut connection, mut stream, .. } = server.unwrap();
        let lives = thread::spawn(move || {
            while connection.writer().write_all(&SIGN_OF_LIFE).is_ok()
                && connection.write_tls(&mut stream).is_ok()
            {
                thread::sleep(Duration::from_millis(50));
            }
        });
        let mut output = File::from(output);
        while output.write_all(&[7; 64 << 10]).is_ok() {}
        assert!(matches!(client.finish(LIMIT), Err(TlsError::Stalled(_))));
        lives.join().unwrap();
    }

    #[test]
    fn a_server_with_another_key_hears_nothing() {
        let (client, server) = joined(key(3).public(), key(1).public());
        assert!(matches!(client, Err(TlsError::Unwanted(key)) if key == self::key(2).public()));
        assert!(matches!(server, Err(TlsError::Refused)), "{server:?}");
    }

    #[test]
    fn a_client_that_is_not_wanted_hears_so() {
        let (client, server) = joined(key(2).public(), key(3).public());
        assert!(matches!(server, Err(TlsError::Unwanted(key)) if key == self::key(1).public()));
        let (pump, input, _output) = client.unwrap().pump().unwrap();
        assert_eq!(File::from(input).read(&mut [0; 10]).unwrap(), 0);
        assert!(matches!(pump.finish(LIMIT), Err(TlsError::Refused)));
    }

    #[test]
    fn who_trickles_is_cut_off_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut slow = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let trickle = thread::spawn(move || {
            while slow.write_all(&[22]).is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let stream = listener.accept().unwrap().0;
        let started = Instant::now();
        let limit = Duration::from_millis(300);
        let result = Secured::accept(stream, &key(2), wants(key(1).public()), limit);
        assert!(result.is_err());
        assert!(started.elapsed() < Duration::from_secs(3));
        trickle.join().unwrap();
    }

    #[test]
    fn who_speaks_no_tls_or_something_else_over_it_gets_no_line() {
        for text in ["SSH-2.0-OpenSSH_9.9\r\n", "GET / HTTP/1.1\r\n\r\n", "\0psync"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut plain = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            plain.write_all(text.as_bytes()).unwrap();
            plain.shutdown(Shutdown::Write).unwrap();
            let stream = listener.accept().unwrap().0;
            assert!(Secured::accept(stream, &key(2), wants(key(1).public()), LIMIT).is_err());
        }
    }
}
