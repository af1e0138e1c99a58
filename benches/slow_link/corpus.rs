//! Real trees to measure on, found on any machine that has built the project: the unpacked sources
//! of some of its dependencies, and an upgrade of them as a release would make it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::tree::{Rng, files_below, is_folder, set_mtime, sorted_entries};
use crate::common::{run_ok, set_mode, write_file};

/// Dependencies that make a tree of several hundred files and a few MB of source and documents.
const PACKAGES: [&str; 10] = [
    "bstr",
    "clap_builder",
    "ignore",
    "indicatif",
    "memchr",
    "proptest",
    "regex-automata",
    "rusqlite",
    "rustix",
    "zstd-sys",
];

/// Generated sources larger than this would outweigh all the rest.
const LARGEST_FILE: u64 = 256 << 10;

/// Of a hundred files, a release changes so many; of a thousand, it adds and removes so many.
const PERCENT_CHANGED: usize = 13;
const PERMILLE_ADDED_OR_REMOVED: usize = 5;

/// 1 January 2025: files of the new release are from then on.
pub(crate) const RELEASED_NS: i64 = 1_735_689_600_000_000_000;

/// Copies the sources of the dependencies into `to`, one folder each.
pub(crate) fn copy_small_real_tree(to: &Path) {
    for source in dependency_sources() {
        let cache = source.parent().expect("a package's folder has a parent");
        for file in files_below(&source) {
            let metadata = fs::metadata(&file).expect("the file was just listed");
            if metadata.size() <= LARGEST_FILE {
                let copy = to.join(file.strip_prefix(cache).expect("it lies in the cache"));
                copy_file(&file, &copy);
                // Releases are unpacked from archives, which keep whole seconds.
                set_mtime(&copy, metadata.mtime() * 1_000_000_000);
            }
        }
    }
    assert!(!sorted_entries(to).is_empty(), "none of these dependencies is found: {PACKAGES:?}");
}

fn dependency_sources() -> Vec<PathBuf> {
    // For this platform alone: the sources of others are not on a machine that built only this.
    let about = run_ok(cargo().arg("-vV"));
    let host =
        about.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
    let metadata = run_ok(
        cargo()
            .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", host])
            .current_dir(env!("CARGO_MANIFEST_DIR")),
    );
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    let wanted = packages.iter().filter_map(|package| {
        let wanted = PACKAGES.contains(&package["name"].as_str()?);
        let folder = Path::new(package["manifest_path"].as_str()?).parent()?;
        wanted.then(|| folder.to_owned())
    });
    wanted.collect()
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Turns a release into the next: changes a few lines in some files, adds and removes a few files.
/// The same seed makes the same changes.
pub(crate) fn upgrade(tree: &Path, seed: u64) {
    let mut rng = Rng::new(seed);
    let texts: Vec<PathBuf> = files_below(tree).into_iter().filter(|file| is_text(file)).collect();
    for (number, file) in texts.iter().enumerate() {
        let text = fs::read_to_string(file).expect("a text was read before");
        let added = file.with_extension(format!("new{number}"));
        if rng.chance(PERCENT_CHANGED) {
            rewrite(file, &change_a_few_lines(&text, &mut rng), number);
        } else if rng.below(1_000) < PERMILLE_ADDED_OR_REMOVED {
            fs::remove_file(file).expect("a copied file can be removed");
        } else if rng.below(1_000) < PERMILLE_ADDED_OR_REMOVED {
            let model = fs::read_to_string(rng.pick(&texts)).unwrap_or_default();
            let lines: Vec<String> =
                (0..model.lines().count()).map(|_| new_line(&model, &mut rng)).collect();
            rewrite(&added, &lines.join("\n"), number);
        }
    }
}

fn is_text(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.lines().count() > 10)
}

fn rewrite(file: &Path, text: &str, number: usize) {
    write_file(file, text);
    set_mtime(file, RELEASED_NS + number as i64 * 1_000_000_000);
}

fn change_a_few_lines(text: &str, rng: &mut Rng) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..=rng.below(6) {
        let at = rng.below(lines.len());
        let until = (at + 1 + rng.below(3)).min(lines.len());
        match rng.below(3) {
            0 => lines[at] = new_line(text, rng),
            1 => drop(lines.splice(at..at, (0..=rng.below(4)).map(|_| new_line(text, rng)))),
            _ if lines.len() > 10 => drop(lines.drain(at..until)),
            _ => {}
        }
    }
    lines.join("\n") + "\n"
}

/// A line that was not there before, of the words that were, and here and there a new name.
fn new_line(text: &str, rng: &mut Rng) -> String {
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let joints = [" ", " ", ", ", "(", ") ", "::", " = "];
    let mut line = String::from("    ");
    for _ in 0..2 + rng.below(7) {
        line += *rng.pick(words.as_slice());
        if rng.chance(15) {
            line += &format!("_{}", rng.below(10_000));
        }
        line += *rng.pick(joints.as_slice());
    }
    line
}

/// Changes one line in the middle of a text.
pub(crate) fn edit_a_line(file: &Path, rng: &mut Rng) {
    let text = fs::read_to_string(file).expect("the file holds text");
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let line = new_line(&text, rng) + "\n";
    let middle = lines.len() / 2;
    lines[middle] = &line;
    write_file(file, lines.concat());
}

/// So many of the texts below `folder`, evenly spread; all, if there are no more.
pub(crate) fn some_texts(folder: &Path, count: usize) -> Vec<PathBuf> {
    let texts: Vec<PathBuf> =
        files_below(folder).into_iter().filter(|file| is_text(file)).collect();
    let step = (texts.len() / count).max(1);
    texts.into_iter().step_by(step).take(count).collect()
}

/// The folder directly below `tree` that holds the most files.
pub(crate) fn fullest_folder(tree: &Path) -> PathBuf {
    let folders = sorted_entries(tree).into_iter().filter(|path| is_folder(path));
    let own = folders.filter(|path| !path.ends_with(".psync"));
    own.max_by_key(|folder| files_below(folder).len()).expect("a tree to measure on has folders")
}

/// Makes `to` the same as `from`, but for the `.psync` of both. As an unpacked release does, it
/// leaves alone what is the same already.
pub(crate) fn mirror(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be created");
    for old in entries_but_psync(to) {
        let name = old.file_name().expect("an entry has a name");
        match fs::symlink_metadata(from.join(name)) {
            Ok(new) if new.is_dir() && is_folder(&old) => {}
            Ok(_) if same_file(&from.join(name), &old) => {}
            _ if is_folder(&old) => fs::remove_dir_all(&old).expect("a folder can be removed"),
            _ => fs::remove_file(&old).expect("a file can be removed"),
        }
    }
    for new in entries_but_psync(from) {
        let copy = to.join(new.file_name().expect("an entry has a name"));
        if is_folder(&new) {
            mirror(&new, &copy);
        } else if fs::symlink_metadata(&copy).is_err() {
            copy_file(&new, &copy);
        }
    }
    let metadata = fs::metadata(from).expect("the folder was just listed");
    set_mode(to, metadata.permissions().mode());
    set_mtime(to, mtime_ns(&metadata));
}

fn entries_but_psync(folder: &Path) -> Vec<PathBuf> {
    sorted_entries(folder).into_iter().filter(|path| !path.ends_with(".psync")).collect()
}

fn same_file(a: &Path, b: &Path) -> bool {
    let (Ok(of_a), Ok(of_b)) = (fs::symlink_metadata(a), fs::symlink_metadata(b)) else {
        return false;
    };
    let same_metadata =
        (of_a.mode(), of_a.size(), mtime_ns(&of_a)) == (of_b.mode(), of_b.size(), mtime_ns(&of_b));
    same_metadata && of_a.is_file() && fs::read(a).ok() == fs::read(b).ok()
}

/// Copies a file or symlink with its mode and time.
pub(crate) fn copy_file(from: &Path, to: &Path) {
    let metadata = fs::symlink_metadata(from).expect("the file was just listed");
    if metadata.is_symlink() {
        let target = fs::read_link(from).expect("a symlink can be read");
        std::os::unix::fs::symlink(target, to).expect("a symlink can be made");
    } else {
        write_file(
            to,
            fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())),
        );
        set_mode(to, metadata.permissions().mode());
    }
    set_mtime(to, mtime_ns(&metadata));
}

fn mtime_ns(metadata: &fs::Metadata) -> i64 {
    metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()
}
