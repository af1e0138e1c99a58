use psync_protocol::message::Flow;
use psync_protocol::{ContentHash, Props, RelPath, Time};

use super::*;

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn file(text: &str) -> State {
    let thing =
        Thing::File { size: text.len() as u64, hash: ContentHash::of_bytes(text.as_bytes()) };
    State::new(thing, Props { mode: 0o644, mtime: Time { secs: -5, nanos: 999_999_999 } })
}

fn start(id: u8, planned: u64) -> RunStart {
    RunStart {
        id: RunId([id; 4]),
        kind: RunKind::Started,
        peer: None,
        reach: Reach {
            location: "host:x".into(),
            rsh: vec!["ssh".into(), "-p 5".into()],
            ..Reach::default()
        },
        flow: Flow::TwoWay,
        trash: "T".into(),
        planned,
        undoes: None,
    }
}

struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path =
            std::env::temp_dir().join(format!("psync-journal-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn deed(name: &str, what: What, before: Option<State>, after: Option<State>) -> Deed {
    let kept = match before {
        Some(_) => Kept::Trash(format!("T/{name}").into_bytes().into()),
        None => Kept::Nothing,
    };
    Deed { path: path(name), what, before, after, kept, reason: 0 }
}

#[test]
fn a_state_is_read_as_it_was_written() {
    let link = Thing::Symlink { target: b"../\xff"[..].into() };
    let directory = Thing::Directory;
    let props = Props { mode: 0o7777, mtime: Time { secs: 7, nanos: 1 } };
    for state in [file("text"), State::new(link, props), State::new(directory, props)] {
        let bytes = state.encode();
        assert_eq!(State::decode(&bytes).unwrap(), state);
        assert!(State::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(State::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
    assert!(State::decode(&[9, 0, 0, 0]).is_err(), "an unknown kind");
    assert!(State::decode(&[]).is_err());
}

#[test]
fn confirmed_deeds_are_listed_and_corrected_ones_are_not() {
    let folder = Folder::new("confirmed");
    let mut recorder = Recorder::new(&folder.0);
    recorder.begin(&start(1, 3), &Reasons::new(["new", "new", "gone"].iter()));
    recorder.announce(vec![
        deed("a", What::Create, None, Some(file("a"))),
        deed("b", What::Delete, Some(file("b")), None),
        deed("c", What::Update, Some(file("c")), Some(file("d"))),
    ]);
    let reader = Journal::read(&folder.0).unwrap().unwrap();
    let run = reader.runs(9, true).unwrap().remove(0);
    assert_eq!((run.ending.clone(), reader.deeds(&run).unwrap()), (Ending::Open, Vec::new()));
    recorder.confirm(&[(0, Correction::NotDone), (2, Correction::Kept(Kept::Dropped))]);
    recorder.announce(vec![deed("e", What::Clash(path("c")), None, Some(file("e")))]);
    recorder.confirm(&[]);
    recorder.end(1, 0, None);
    let run = reader.find("01010101").unwrap().unwrap();
    assert_eq!(run.ending, Ending::Finished);
    assert_eq!(run.reach, start(1, 3).reach);
    let expected = Counts { created: 1, updated: 1, deleted: 1, ..Counts::default() };
    assert_eq!((run.counts, run.conflicts), (expected, 1));
    let deeds = reader.deeds(&run).unwrap();
    let names: Vec<String> = deeds.iter().map(|deed| deed.path.to_string()).collect();
    assert_eq!(names, ["b", "c", "e"]);
    assert_eq!(deeds[1].kept, Kept::Dropped);
    assert_eq!(deeds[2].what, What::Clash(path("c")));
    assert_eq!(deeds[0].why, "new");
    assert_eq!(reader.deeds_at(&path("b"), false).unwrap().len(), 1);
    assert!(recorder.take_notes().is_empty());
}

#[test]
fn what_a_broken_run_announced_is_settled_by_what_is_there() {
    let folder = Folder::new("settled");
    let mut recorder = Recorder::new(&folder.0);
    recorder.begin(&start(1, 2), &Reasons::default());
    recorder.announce(vec![
        deed("a", What::Create, None, Some(file("a"))),
        deed("b", What::Create, None, Some(file("b"))),
    ]);
    drop(recorder);
    let (mut journal, note) = Journal::open(&folder.0).unwrap();
    assert_eq!(note, None);
    journal.settle(&mut |path, _| path.as_bytes() == b"b").unwrap();
    let run = journal.find("1").unwrap().unwrap();
    assert_eq!(run.ending, Ending::Broken("interrupted".into()));
    let deeds = journal.deeds(&run).unwrap();
    assert_eq!((deeds.len(), deeds[0].path.clone()), (1, path("b")));
}

#[test]
fn runs_with_nothing_to_do_are_one_row_until_something_is_done() {
    let folder = Folder::new("idle");
    let mut recorder = Recorder::new(&folder.0);
    for id in 1..4 {
        recorder.note_run(&start(id, 0), 0, None);
    }
    recorder.note_run(&start(4, 0), 0, Some("the line broke"));
    recorder.note_run(&start(5, 0), 0, None);
    let journal = recorder.journal().unwrap();
    let runs = journal.runs(9, true).unwrap();
    let told: Vec<(u64, bool)> =
        runs.iter().map(|run| (run.times, run.ending == Ending::Finished)).collect();
    assert_eq!(told, [(1, true), (1, false), (3, true)]);
    assert_eq!(journal.runs(9, false).unwrap().len(), 1);
    assert_eq!(journal.latest_by_place().unwrap().len(), 1);
}

#[test]
fn a_damaged_journal_is_set_aside_with_a_note() {
    let folder = Folder::new("damaged");
    std::fs::write(folder.0.join("journal.db"), "no database, but of some length. ".repeat(99))
        .unwrap();
    let mut recorder = Recorder::new(&folder.0);
    recorder.begin(&start(1, 1), &Reasons::default());
    assert!(recorder.is_running());
    assert!(recorder.take_notes()[0].contains("journal.db.unusable-1"));
    assert!(folder.0.join("journal.db.unusable-1").exists());
}

#[test]
fn a_journal_that_cannot_be_made_is_a_note_and_no_more() {
    let mut recorder = Recorder::new(std::path::Path::new("/nowhere/at/all"));
    recorder.begin(&start(1, 1), &Reasons::default());
    recorder.announce(vec![deed("a", What::Create, None, Some(file("a")))]);
    recorder.confirm(&[]);
    recorder.end(0, 0, None);
    assert_eq!(recorder.take_notes().len(), 1);
}

fn trashed(name: &str, since: i64, size: u64) -> Trashed {
    Trashed {
        place: format!("{since}/{name}").into_bytes().into(),
        path: Some(path(name)),
        size,
        since,
        hash: Some(ContentHash::of_bytes(format!("{name} {since}").as_bytes())),
        elsewhere: false,
    }
}

#[test]
fn the_trash_lets_go_of_what_is_old_then_of_what_is_elsewhere_then_of_the_oldest() {
    let mut items: Vec<Trashed> = (1..=5).map(|since| trashed("x", since, 10)).collect();
    items[3].elsewhere = true;
    let retention = |bytes| Retention {
        trash_budget: TrashBudget::Bytes(bytes),
        trash_retention: std::time::Duration::from_secs(8),
        ..Retention::default()
    };
    assert_eq!(retention(50).surplus(&items, 0, 6), Vec::<usize>::new());
    assert_eq!(retention(50).surplus(&items, 0, 10), [0]);
    assert_eq!(retention(40).surplus(&items, 0, 6), [3]);
    assert_eq!(retention(30).surplus(&items, 0, 6), [3, 0]);
    assert_eq!(retention(0).surplus(&items, 0, 6).len(), 5);
    items[0].hash = items[4].hash;
    items[3].elsewhere = false;
    assert_eq!(retention(40).surplus(&items, 0, 6), [0], "the older of two that are the same");
}

#[test]
fn versions_beyond_the_number_go_by_path_and_by_rule() {
    let mut items: Vec<Trashed> = (1..=4).map(|since| trashed("x", since, 1)).collect();
    items.extend((1..=4).map(|since| trashed("logs/y", since, 1)));
    let rule = PathRule::new("/logs/", None, Some(1)).unwrap();
    let retention = Retention { keep_versions: Some(3), rules: vec![rule], ..Retention::default() };
    let mut gone = retention.surplus(&items, 0, 5);
    gone.sort_unstable();
    assert_eq!(gone, [0, 4, 5, 6]);
}

#[test]
fn large_files_and_those_that_a_rule_names_do_not_go_to_the_trash() {
    let rules = vec![
        PathRule::new("*.iso", Some(false), None).unwrap(),
        PathRule::new("keep/", Some(true), None).unwrap(),
    ];
    let retention = Retention { rules, ..Retention::default() };
    assert!(retention.takes(&path("a"), 20 << 20));
    assert!(!retention.takes(&path("a"), (20 << 20) + 1));
    assert!(!retention.takes(&path("keep/x.iso"), 1));
    let off = Retention { trash: false, ..retention };
    assert!(off.takes(&path("keep/x"), 1) && !off.takes(&path("x"), 1));
    assert!(PathRule::new("a{b", None, None).is_err());
}
