//! What a process did to paths, as strace saw it.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::common::{PSYNC, require_program};

/// What a program may read on any machine: libraries, the system's tables, what the kernel tells.
const READABLE: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr",
    "/bin",
    "/sbin",
    "/etc/ld.so",
    "/etc/locale",
    "/etc/localtime",
    "/etc/psync",
    "/etc/passwd",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/proc/self",
    "/proc/locks",
    "/proc/sys",
    "/proc/mounts",
    "/proc/stat",
    "/proc/meminfo",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/dev/null",
    "/dev/tty",
    "/dev/urandom",
    "pipe:",
    "socket:",
    "anon_inode:",
];

/// Calls that change what stands at a path.
const CHANGING: &[&str] = &[
    "creat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "mknod",
    "mknodat",
    "chmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "lchown",
    "fchownat",
    "utime",
    "utimes",
    "utimensat",
    "futimesat",
    "truncate",
    "setxattr",
    "lsetxattr",
    "removexattr",
    "lremovexattr",
];

/// The same command under strace, which writes down all calls that name a path.
pub(crate) fn traced(command: &Command, into: &Path) -> Command {
    let mut traced = Command::new(require_program("strace"));
    // The program stays the child: strace is its grandchild.
    traced.args(["-D", "-q", "-f", "--seccomp-bpf", "-y", "-s", "5000", "-e", "trace=%file", "-o"]);
    traced.arg(into).arg(command.get_program()).args(command.get_args());
    traced.env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            traced.env(name, value);
        }
    }
    if let Some(path) = std::env::var_os("PATH") {
        traced.env("PATH", path);
    }
    if let Some(folder) = command.get_current_dir() {
        traced.current_dir(folder);
    }
    traced
}

/// Waits until strace has written down that this process ended.
pub(crate) fn await_end(trace: &Path, process: u32) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    let ended = |line: &str| {
        line.split_once(' ').is_some_and(|(id, rest)| {
            id == process.to_string() && rest.trim_start().starts_with("+++ ")
        })
    };
    loop {
        let text = String::from_utf8_lossy(&fs::read(trace).unwrap_or_default()).into_owned();
        if text.lines().any(ended) {
            return text;
        }
        assert!(Instant::now() < deadline, "strace did not end: {}", trace.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What was done that may not be, with the lines of the trace that say so. `owned` is where the
/// process may change things.
pub(crate) fn offences(trace: &str, owned: &[PathBuf], readable: &[PathBuf]) -> Vec<String> {
    let mut offences = Vec::new();
    for line in trace.lines() {
        let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
        let (name, arguments) = call.split_once('(').unwrap_or((call, ""));
        let failed = call.contains(") = -1 ") || call.contains("resumed>) = -1 ");
        if failed {
            continue;
        }
        let opens = call.starts_with("open") || call.starts_with("<... open");
        let result = call.rsplit_once(") = ").and_then(|(_, result)| inner(result));
        if let Some(opened) = result.filter(|_| opens) {
            let path = Path::new(opened);
            let own = owned.iter().chain(readable).any(|own| path.starts_with(own));
            let of_itself = opened.starts_with("/proc/") && call.contains("\"/proc/self/");
            if !own
                && !of_itself
                && !READABLE.iter().any(|free| opened.starts_with(free))
                && !is_above(path, owned)
            {
                offences.push(format!("opened: {line}"));
            }
        }
        let writes = name.starts_with("open")
            && ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"]
                .iter()
                .any(|flag| arguments.contains(flag));
        if CHANGING.contains(&name) || writes {
            // The target of a link is only text.
            let skip = usize::from(name.starts_with("symlink"));
            for path in paths(arguments).into_iter().skip(skip) {
                let own = owned.iter().any(|own| path.starts_with(own));
                if !own && path != Path::new("/dev/null") && path != Path::new("/dev/tty") {
                    offences.push(format!("changed {}: {line}", path.display()));
                }
            }
        }
    }
    offences
}

/// A directory on the way to a root, which is opened as such.
fn is_above(path: &Path, owned: &[PathBuf]) -> bool {
    owned.iter().any(|own| own.starts_with(path))
}

/// `5</path>` as a path.
fn inner(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('<')?;
    rest.rsplit_once('>').map(|(path, _)| path)
}

/// The paths among the arguments, each resolved from its directory.
fn paths(arguments: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let mut rest = arguments;
    while let Some(start) = rest.find('"') {
        let before = &rest[..start];
        let text = &rest[start + 1..];
        let Some(end) = end_of_string(text) else { break };
        let path = Path::new(&text[..end]);
        let base = before
            .trim_end()
            .strip_suffix(',')
            .and_then(|before| before.strip_suffix('>'))
            .and_then(|before| before.rsplit_once('<'))
            .map_or("", |(_, base)| base);
        paths.push(normal(&Path::new(base).join(path)));
        rest = &text[end + 1..];
    }
    paths
}

fn end_of_string(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

/// The program itself may be read.
pub(crate) fn program() -> PathBuf {
    PathBuf::from(PSYNC)
}

#[test]
fn the_trace_of_a_program_that_goes_astray_is_seen() {
    let owned = [PathBuf::from("/t/root")];
    let clean = [
        "7 openat2(5</t/root>, \"a/b\", {flags=O_RDONLY}, 24) = 6</t/root/a/b>",
        "7 openat(AT_FDCWD</t>, \"/etc/passwd\", O_RDONLY|O_CLOEXEC) = 3</etc/passwd>",
        "7 renameat2(5</t/root>, \"a\", 6</t/root/d>, \"b\", RENAME_NOREPLACE) = 0",
        "7 symlinkat(\"/etc/passwd\", 5</t/root>, \"link\") = 0",
        "7 openat(5</t/root>, \"../outside\", O_RDONLY) = -1 ELOOP (Too many levels)",
        "7 unlink(\"/t/root/.psync/x\") = 0",
    ];
    assert!(offences(&clean.join("\n"), &owned, &[]).is_empty());
    let astray = [
        "7 openat(5</t/root>, \"way/secret\", O_RDONLY) = 6</t/outside/secret>",
        "7 <... openat resumed>) = 6</t/outside/secret>",
        "7 renameat(5</t/root>, \"a\", 6</t/outside>, \"b\") = 0",
        "7 linkat(6</t/outside>, \"b\", 5</t/root>, \"b\", 0) = 0",
        "7 chmod(\"/t/root/../outside/b\", 0644) = 0",
        "7 symlinkat(\"x\", 6</t/outside>, \"b\") = 0",
        "7 mkdirat(AT_FDCWD</t>, \"x\", 0700 <unfinished ...>",
    ];
    for line in astray {
        assert_eq!(offences(line, &owned, &[]).len(), 1, "{line}");
    }
}
