//! A key with few rights, whose machine was taken over: over TLS, against a daemon.

use std::fs::File;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use psync::identity::MachineKey;
use psync::transport::Secured;
use psync_protocol::message::{Coverage, Mark, Statement, Want, WantKind};
use psync_protocol::service::Request;
use psync_protocol::{
    ContentDecision, ContentHash, Decision, ErrorCode, Message, ReplicaId, Role, Row,
};

use super::common::daemon::{Served, of_machine};
use super::common::pair::Said;
use super::common::tree::{differences, snapshot};
use super::common::{read_text, write_file};
use super::initiators::Guise;
use super::mask::{Mask, path_of};
use super::voice::Voice;

/// What only the owner of the daemon may see.
const HIDDEN: &str = "what is not for this peer: 0123456789 0123456789 0123456789";

/// A daemon with files in and out of a grant, that has met its client.
fn granting(grants: &str) -> Served {
    filled(Served::granting(grants))
}

/// The same, with a filter that leaves the private files out for every peer.
fn excluding(grants: &str) -> Served {
    let served = Served::granting(grants);
    let path = served.served.display();
    served.write_modules(&format!("[module.p1]\npath = '{path}'\nexclude = ['/private/']\n"));
    served.reload();
    filled(served)
}

fn filled(served: Served) -> Served {
    write_file(served.served.join("docs/a.txt"), "open\n".repeat(100));
    write_file(served.served.join("docs/b.txt"), "also open\n".repeat(100));
    write_file(served.served.join("private/key"), HIDDEN);
    // Its owner syncs all of it, so that its index knows everything.
    let own = served.temp.folder("own");
    let mut command = of_machine(&served.temp, "owner");
    Said::of(command.arg(&served.served).arg(&own), 0);
    served.sync_expecting(0, &["--mirror=pull"]);
    served
}

/// Calls the daemon with the client's key.
fn call(served: &Served, peer: impl FnOnce(&mut Guise)) -> Vec<Message> {
    let stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    let folder = served.temp.join("client/psync");
    let key = MachineKey::open(&folder, |_| panic!("the key has been made")).unwrap();
    let secured = Secured::connect(stream, &key, Arc::new(|_| true), Duration::from_secs(10));
    let secured = secured.unwrap();
    let exporter = secured.exporter();
    let (pump, input, output) = secured.pump().unwrap();
    let socket = UnixStream::from(output.try_clone().unwrap());
    let mut output = File::from(output);
    let request = Request::Sync { module: "p1".into(), store: false, level: None };
    output.write_all(&request.encode()).unwrap();
    let mut voice = Voice::new(File::from(input), output);
    let mask = Mask { exporter, ..Mask::of(&served.mine, &served.served) };
    let mut guise = Guise::new(mask, &mut voice);
    peer(&mut guise);
    voice.close();
    let _ = socket.shutdown(Shutdown::Write);
    voice.hear_out();
    let _ = pump.finish(Duration::from_secs(5));
    voice.heard
}

fn error(heard: &[Message]) -> (ErrorCode, String) {
    let error = heard.iter().find_map(|message| match message {
        Message::Error { code, text } => Some((*code, text.clone())),
        _ => None,
    });
    error.unwrap_or_else(|| panic!("no error: {heard:?}"))
}

fn of(content: ContentDecision) -> Decision {
    Decision { content, ..Decision::agree() }
}

fn paths(peer: &Guise) -> usize {
    peer.answer
        .iter()
        .map(|message| match message {
            Message::Rows(payload) => usize::from(payload[0]),
            _ => 0,
        })
        .sum()
}

/// Attacks that are refused as a whole: by name, grants, the code, words, and what is done.
type Refused = (&'static str, &'static str, ErrorCode, &'static str, fn(&mut Guise));

const REFUSED: &[Refused] = &[
    (
        "an edit without the right to write",
        "p1=read",
        ErrorCode::Refused,
        "may not change",
        |peer| {
            let row = peer.mask.edit("docs/a.txt", b"mine");
            peer.impose(&[row]);
        },
    ),
    (
        "a new file without the right to write",
        "p1=read",
        ErrorCode::Refused,
        "may not change",
        |peer| {
            let row = peer.mask.file("docs/new", b"mine");
            peer.impose(&[row]);
        },
    ),
    (
        "a link without the right to write",
        "p1=read",
        ErrorCode::Refused,
        "may not change",
        |peer| {
            let row = peer.mask.link("docs/new", b"/etc/passwd");
            peer.impose(&[row]);
        },
    ),
    (
        "a mode without the right to write",
        "p1=read",
        ErrorCode::Refused,
        "may not change",
        |peer| {
            let row = peer.mask.props("docs/a.txt", 0o777, 5);
            peer.impose(&[row]);
        },
    ),
    ("a mode that is merged", "p1=read", ErrorCode::Refused, "may not change", |peer| {
        let row = peer.mask.props("docs/a.txt", 0o644, 5);
        peer.state(&[row]);
        let props = psync_protocol::Props { mode: 0o777, ..Default::default() };
        peer.plan(&[Decision {
            props: psync_protocol::PropsDecision::Merge(props),
            ..Decision::agree()
        }]);
    }),
    ("a mode that is agreed on", "p1=read", ErrorCode::Refused, "may not change", |peer| {
        // The server states its row, too: then nothing is missing but the right.
        peer.hello.processed = 0;
        let row = peer.mask.props("docs/a.txt", 0o777, 5);
        peer.state(&[Row { props_version: peer.mask.version(), ..row }]);
        let mut plan = vec![of(ContentDecision::Later); paths(peer)];
        assert_eq!(plan.len(), 5, "docs, docs/a.txt, docs/b.txt, private, private/key");
        plan[1] = Decision::agree();
        peer.plan(&plan);
    }),
    (
        "what was never stated stays, without mode and time",
        "p1=read",
        ErrorCode::Protocol,
        "never stated",
        |peer| {
            let row = peer.mask.edit("docs/a.txt", b"mine");
            peer.state(&[row]);
            peer.plan(&[Decision::take(Role::Responder)]);
            peer.voice.say(&Message::End);
        },
    ),
    (
        "what is gone here stays there, without mode and time",
        "p1=read",
        ErrorCode::Protocol,
        "never stated",
        |peer| {
            let row = peer.mask.gone("docs/a.txt");
            peer.state(&[row]);
            peer.plan(&[Decision::agree()]);
            peer.voice.say(&Message::End);
        },
    ),
    (
        "a deletion without the right to delete",
        "p1=read,write",
        ErrorCode::Refused,
        "may not delete",
        |peer| {
            let row = peer.mask.gone("docs/a.txt");
            peer.impose(&[row]);
        },
    ),
    (
        "to move away without the right to delete",
        "p1=read,write",
        ErrorCode::Refused,
        "may not delete",
        |peer| {
            let row = peer.mask.gone("docs/a.txt");
            peer.state(&[row]);
            peer.plan(&[of(ContentDecision::MovedAway(Role::Initiator))]);
        },
    ),
    (
        "a clash file without the right to write",
        "p1=read",
        ErrorCode::Refused,
        "may not change",
        |peer| {
            let row = peer.mask.edit("docs/a.txt", b"mine");
            peer.state(&[row]);
            peer.plan(&[of(ContentDecision::KeepBoth {
                winner: Role::Responder,
                clash: path_of("docs/x"),
            })]);
        },
    ),
    (
        "a file outside of the grant",
        "p1/docs=read,write,delete",
        ErrorCode::Protocol,
        "cannot or will not sync",
        |peer| {
            let row = peer.mask.file("private/new", b"mine");
            peer.impose(&[row]);
        },
    ),
    (
        "the deletion of what is outside of the grant",
        "p1/docs=read,write,delete",
        ErrorCode::Protocol,
        "cannot or will not sync",
        |peer| {
            let row = peer.mask.gone("private/key");
            peer.impose(&[row]);
        },
    ),
    (
        "a clash file outside of the grant",
        "p1/docs=read,write,delete",
        ErrorCode::Protocol,
        "a clash file does not stand beside",
        |peer| {
            let row = peer.mask.edit("docs/a.txt", b"mine");
            peer.state(&[row]);
            peer.plan(&[of(ContentDecision::KeepBoth {
                winner: Role::Initiator,
                clash: path_of("private/x"),
            })]);
        },
    ),
    (
        "the way to the grant made a link",
        "p1/docs=read,write,delete",
        ErrorCode::Protocol,
        "cannot or will not sync",
        |peer| {
            let row = peer.mask.link("private", b"docs");
            peer.impose(&[row]);
        },
    ),
];

#[test]
fn a_plan_beyond_the_grant_is_refused_before_anything_is_changed() {
    let mut grants: Vec<&str> = REFUSED.iter().map(|row| row.1).collect();
    grants.dedup();
    for grants in grants {
        let served = granting(grants);
        let before = snapshot(&served.served);
        for (name, _, code, words, does) in REFUSED.iter().filter(|row| row.1 == grants) {
            let (found, text) = error(&call(&served, does));
            assert!(found == *code && text.contains(words), "{name}: {found:?} {text}");
            let changed = differences(&before, &snapshot(&served.served));
            assert!(changed.is_empty(), "{name}: {changed:?}");
        }
        // The daemon goes on, for this peer and for others.
        served.sync_expecting(0, &["--mirror=pull"]);
    }
}

/// Wants a content, and gives what came of it.
fn want(peer: &mut Guise, index: u64) -> Vec<Message> {
    let flight = peer.want(index, WantKind::Whole);
    let sent = |message: &Message| {
        matches!(message, Message::File(_) | Message::Literal(_) | Message::Patches(_))
    };
    assert!(!flight.iter().any(sent), "a content was sent: {flight:?}");
    flight
}

#[test]
fn who_may_only_list_gets_no_content_whatever_it_asks_for() {
    let served = granting("p1=read");
    served.authorize("client", "p1=list");
    served.reload();
    let heard = call(&served, |peer| {
        peer.hello.processed = 0;
        peer.state(&[]);
        let paths = paths(peer);
        assert!(paths > 0, "the list is granted");
        peer.plan(&vec![of(ContentDecision::Later); paths]);
        for index in 0..paths as u64 - 1 {
            peer.voice.say(&Message::Want(Want { index, kind: WantKind::Whole }));
        }
        want(peer, paths as u64 - 1);
        peer.finish();
    });
    let told = heard.iter().any(|message| {
        matches!(message, Message::FileFailed(failure) if failure.text.contains("does not let this peer read it"))
    });
    assert!(told, "{heard:?}");
}

#[test]
fn what_is_outside_of_the_grant_is_not_sent_even_if_it_is_named() {
    let served = granting("p1/docs=read,write,delete");
    let heard = call(&served, |peer| {
        let row = peer.mask.file("private/key", b"whatever");
        peer.state(&[row]);
        peer.plan(&[of(ContentDecision::Later)]);
        want(peer, 0);
        peer.finish();
    });
    let told = heard.iter().any(|message| {
        matches!(message, Message::FileFailed(failure) if failure.text.contains("has not stated it"))
    });
    assert!(told, "{heard:?}");
}

/// Whoever knows a hash does not get the content that it is of, nor hears whether it is there.
#[test]
fn what_is_hidden_is_not_copied_or_built_upon_for_who_knows_its_hash() {
    for served in [granting("p1/docs=read,write,delete"), excluding("p1=read,write,delete")] {
        let (mut marks, mut wants) = (Vec::new(), Vec::new());
        call(&served, |peer| {
            let base = peer.mask.key().check(&ContentHash::of_bytes(HIDDEN.as_bytes()));
            let built = Row { base: Some(base), ..peer.mask.file("docs/built", b"on it") };
            peer.impose(&[built, peer.mask.file("docs/stolen", HIDDEN.as_bytes())]);
            peer.voice.say(&Message::End);
            for message in peer.answer.iter().chain(&peer.voice.flight()) {
                match message {
                    Message::Marks(heard) => marks.extend(heard.clone()),
                    Message::Want(want) => wants.push(want.clone()),
                    _ => {}
                }
            }
        });
        let stolen = served.served.join("docs/stolen");
        assert!(!stolen.exists(), "it was copied from where nobody may read");
        assert_eq!(marks, [Mark::Absent, Mark::Absent]);
        let whole = |index| Want { index, kind: WantKind::Whole };
        assert_eq!(wants, [whole(0), whole(1)], "both have to come from whoever states them");
    }
}

#[test]
fn what_a_filter_leaves_out_does_not_arrive_elsewhere() {
    let served = excluding("p1=read,write,delete");
    let (code, text) = error(&call(&served, |peer| {
        let guess = |path| peer.mask.file(path, b"a guess");
        let rows = [guess("docs/loot"), guess("private/key")];
        peer.state(&rows);
        let arrives = of(ContentDecision::Arrive { from: Role::Responder, source: 1 });
        peer.plan(&[arrives, of(ContentDecision::Later)]);
        peer.finish();
    }));
    assert!(code == ErrorCode::Protocol && text.contains("never stated"), "{code:?} {text}");
    assert!(!served.served.join("docs/loot").exists());
}

#[test]
fn a_state_of_this_side_that_a_limited_peer_makes_up_is_not_believed() {
    let served = granting("p1=read");
    let index = read_id(&served);
    let heard = call(&served, |peer| {
        peer.hello.processed = u64::MAX >> 1;
        peer.state(&[]);
    });
    error(&heard);
    let heard = call(&served, |peer| {
        let version =
            psync_protocol::Version::from_pairs(vec![(peer.mask.victim.replica, u64::MAX >> 1)]);
        let row = Row { content_version: version, ..peer.mask.edit("docs/a.txt", b"mine") };
        let statement = Statement { coverage: Coverage::Everything, ..peer.mask.statement() };
        let _ = statement;
        peer.state(&[row]);
    });
    error(&heard);
    served.sync_expecting(0, &["--mirror=pull"]);
    assert_eq!(read_id(&served), index, "the index of the daemon was set aside");
    assert_eq!(read_text(served.served.join("private/key")), HIDDEN);
}

/// A disk that is not mounted is no deletion because somebody who may only read says so.
#[test]
fn a_tree_that_is_gone_is_not_taken_for_deleted_on_the_word_of_a_limited_peer() {
    let served = granting("p1=read");
    for name in ["docs", "private"] {
        std::fs::remove_dir_all(served.served.join(name)).unwrap();
    }
    let heard = call(&served, |peer| {
        peer.hello.accepts_empty = true;
        peer.state(&[]);
    });
    let (code, text) = error(&heard);
    assert!(code == ErrorCode::Guard && text.contains("is empty"), "{code:?} {text}");
    let own = served.temp.join("own");
    let mut command = of_machine(&served.temp, "owner");
    Said::of(command.arg(&served.served).arg(&own), 41);
    assert_eq!(read_text(own.join("private/key")), HIDDEN);
}

/// A greeting that accepts an empty tree is no word about how much of a full one may go.
#[test]
fn a_limited_peer_does_not_switch_off_the_guard_of_deletions() {
    let served = granting("p1/docs=read,write,delete");
    let names: Vec<String> = (0..150).map(|at| format!("docs/many/{at:03}")).collect();
    names.iter().for_each(|name| write_file(served.served.join(name), name));
    served.sync_expecting(0, &["--mirror=pull"]);
    let (code, text) = error(&call(&served, |peer| {
        peer.hello.accepts_empty = true;
        let rows: Vec<_> = names.iter().map(|name| peer.mask.gone(name)).collect();
        peer.impose(&rows);
        peer.finish();
    }));
    assert!(code == ErrorCode::Guard && text.contains("150"), "{code:?} {text}");
    assert!(names.iter().all(|name| served.served.join(name).exists()));
}

/// What is the same on both sides needs no right, and nor does a deletion of what is not here: but a
/// version that is written down reverts and deletes what others have changed.
#[test]
fn what_who_may_only_read_says_of_versions_is_not_written_down() {
    for grants in ["p1=list", "p1=read", "p1=read,delete", "p1=read,write"] {
        let served = granting("p1=read");
        served.authorize("client", grants);
        served.reload();
        let own = served.temp.join("own");
        let owner = rows_and_id(&own).1;
        write_file(own.join("docs/a.txt"), "an edit of the owner's");
        write_file(own.join("docs/new"), "a new file of the owner's");
        let before = rows_and_id(&served.served);
        let heard = call(&served, |peer| {
            let claim = |row: Row<_>| {
                let version = psync_protocol::Version::from_pairs(vec![(owner, 1 << 40)]);
                Row { content_version: version.clone(), props_version: version, ..row }
            };
            let same = peer.mask.rows["docs/a.txt"].row.stated(&peer.mask.key());
            let gone = peer.mask.gone("docs/new");
            let mut rows = Vec::new();
            rows.extend((!grants.contains("write")).then(|| claim(same)));
            rows.extend((!grants.contains("delete")).then(|| claim(gone)));
            peer.state(&rows);
            peer.plan(&vec![Decision::agree(); rows.len()]);
            peer.finish();
        });
        assert!(heard.iter().any(|message| matches!(message, Message::Done(_))), "{heard:?}");
        assert_eq!(rows_and_id(&served.served), before, "{grants}");
        let mut command = of_machine(&served.temp, "owner");
        Said::of(command.arg(&served.served).arg(&own), 0);
        assert_eq!(read_text(own.join("docs/a.txt")), "an edit of the owner's", "{grants}");
        assert_eq!(read_text(own.join("docs/new")), "a new file of the owner's", "{grants}");
        assert_eq!(rows_and_id(&own).1, owner, "{grants}: its index was set aside");
    }
}

/// All that a root would tell of its entries, and who it is.
fn rows_and_id(root: &Path) -> (Vec<Row<ContentHash>>, ReplicaId) {
    let mut index = psync::index::Index::look(&root.join(".psync")).unwrap().unwrap();
    let rows = index.rows_since(0).unwrap().into_iter().map(|stored| stored.row);
    (rows.collect(), index.replica())
}

fn read_id(served: &Served) -> psync_protocol::IndexId {
    psync::index::Index::look(&served.served.join(".psync")).unwrap().unwrap().index_id()
}
