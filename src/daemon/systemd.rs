//! What systemd and a service say to each other: sockets that were opened for it, and how it is
//! getting on. Both are a few lines of text and numbers (`sd_listen_fds(3)`, `sd_notify(3)`).

use std::ffi::OsStr;
use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use rustix::net::AddressFamily;
use rustix::net::sockopt::{socket_acceptconn, socket_domain};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use rustix::time::{ClockId, clock_gettime};

/// The first descriptor that is handed over.
const FIRST: i32 = 3;
/// No unit has more sockets.
const SOCKETS_MAX: i32 = 64;

/// The listening sockets that this process was started with, by what the environment says.
pub fn listeners() -> io::Result<Vec<TcpListener>> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    let mine = number("LISTEN_PID") == Some(getpid().as_raw_nonzero().get());
    let count = number("LISTEN_FDS").filter(|_| mine).unwrap_or(0);
    if !(0..=SOCKETS_MAX).contains(&count) {
        return Err(io::Error::other(format!("LISTEN_FDS={count} makes no sense")));
    }
    (FIRST..FIRST + count).map(listener).collect()
}

/// The descriptor of this number, taken over through the process's own table: that it is there, and
/// what it is, the kernel says.
fn listener(number: i32) -> io::Result<TcpListener> {
    let of = |what: &str| io::Error::other(format!("descriptor {number} of LISTEN_FDS {what}"));
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    let socket = pidfd_getfd(&own, number, PidfdGetfdFlags::empty())
        .map_err(|error| of(&format!("cannot be had: {error}")))?;
    let family = socket_domain(&socket).map_err(|error| of(&format!("is no socket: {error}")))?;
    if !matches!(family, AddressFamily::INET | AddressFamily::INET6) {
        return Err(of("is not for TCP"));
    }
    if !socket_acceptconn(&socket)? {
        return Err(of("does not listen"));
    }
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(false)?;
    Ok(listener)
}

/// Where systemd wants to hear how a service is getting on.
#[derive(Debug)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// As `$NOTIFY_SOCKET` says; whoever has none is told nothing.
    pub fn of_environment() -> Notifier {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| Notifier::to(&name).ok());
        Notifier(socket)
    }

    /// A socket by its path, or by its abstract name after an `@`.
    fn to(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            _ => SocketAddr::from_pathname(Path::new(name))?,
        };
        Ok((UnixDatagram::unbound()?, address))
    }

    /// It serves.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// It reads its files anew; [`Notifier::ready`] follows.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// It takes nobody in any more.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=Waiting for running sessions to end");
    }

    fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.0 {
            // Whoever does not listen cannot be told.
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn states_arrive_at_a_socket_with_a_path_and_at_one_with_an_abstract_name() {
        let path = std::env::temp_dir().join(format!("psync-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("psync-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        for (socket, to) in
            [(by_path, path.clone().into_os_string()), (by_name, format!("@{name}").into())]
        {
            let notifier = Notifier(Some(Notifier::to(&to).unwrap()));
            notifier.ready("serving");
            assert_eq!(heard(&socket), "READY=1\nSTATUS=serving");
            notifier.reloading();
            let said = heard(&socket);
            let micros = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(micros.parse::<u64>().unwrap() > 0);
            notifier.stopping();
            assert!(heard(&socket).starts_with("STOPPING=1\n"));
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_descriptor_that_is_no_listening_socket_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(listener(std::os::fd::AsRawFd::as_raw_fd(&file)).is_err());
        assert!(listener(9999).is_err());
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let same = listener(std::os::fd::AsRawFd::as_raw_fd(&socket)).unwrap();
        assert_eq!(same.local_addr().unwrap(), socket.local_addr().unwrap());
    }
}
