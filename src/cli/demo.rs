//! `psync demo`: a newcomer sees both sides edited, a conflict, a rename, a deletion, and what
//! crossed the line, in a temporary folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::args::{Parsed, parse};
use super::command::Subcommand;
use super::exit::Exit;
use super::pairs::run;
use super::run::print_out;

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "demo",
    about: "See psync work, in a temporary folder",
    arguments: |command| command,
    run: |_| demo(),
};

/// Runs the demonstration; the folder goes when it is over.
fn demo() -> Exit {
    let folder = std::env::temp_dir().join(format!("psync-demo-{}", std::process::id()));
    let result = play(&folder);
    let _ = fs::remove_dir_all(&folder);
    match result {
        Ok(exit) => exit,
        Err(error) => {
            print_out(&format!("psync demo: {}: {error}\n", folder.display()));
            Exit::FileIo
        }
    }
}

fn say(text: &str) {
    print_out(&format!("\n# {text}\n"));
}

fn play(folder: &Path) -> io::Result<Exit> {
    let (home, laptop) = (folder.join("home"), folder.join("laptop"));
    fs::create_dir_all(home.join("letters"))?;
    fs::create_dir(&laptop)?;
    let page = "The quick brown fox jumps over the lazy dog.\n".repeat(4000);
    fs::write(home.join("book.txt"), &page)?;
    fs::write(home.join("notes.txt"), "buy milk\n")?;
    for number in 1..=20 {
        fs::write(
            home.join(format!("letters/{number}.txt")),
            format!("Dear number {number}\n").repeat(50),
        )?;
    }
    say("Two folders, one of them empty. The first run copies, and deletes nothing.");
    sync(&home, &laptop)?;
    say("At home: a line of the book changes, the folder letters is renamed, notes get longer.");
    fs::write(home.join("book.txt"), page.replacen("lazy dog", "sleeping cat", 1))?;
    fs::rename(home.join("letters"), home.join("post"))?;
    fs::write(home.join("notes.txt"), "buy milk and bread\n")?;
    say("On the laptop: a new file, and other notes in the same place: a conflict.");
    fs::write(laptop.join("poem.txt"), "Roses are red\n")?;
    fs::write(laptop.join("notes.txt"), "buy coffee\n")?;
    let exit = sync(&home, &laptop)?;
    say("Both folders hold the same now, and both notes are there:");
    list(&laptop)?;
    say("Nothing has changed since. The next run says so.");
    sync(&home, &laptop)?;
    say("On the laptop the poem is deleted. At home it goes to .psync/trash.");
    fs::remove_file(laptop.join("poem.txt"))?;
    sync(&home, &laptop)?;
    // The conflict was meant to be there.
    Ok(if exit == Exit::Conflicts { Exit::Ok } else { exit })
}

fn sync(a: &Path, b: &Path) -> io::Result<Exit> {
    print_out("$ psync -v home laptop\n");
    // Outside the folder nothing is noted of what goes with it.
    let state = a.with_file_name("state");
    let arguments: Vec<PathBuf> =
        ["psync".into(), "-v".into(), "--state-dir".into(), state, a.into(), b.into()].into();
    match parse(arguments.into_iter().map(PathBuf::into_os_string)) {
        Ok(Parsed::Sync(typed)) => Ok(run(&typed)),
        Ok(_) => Err(io::Error::other("the demonstration's own command line is no sync")),
        Err(text) => Err(io::Error::other(text)),
    }
}

fn list(folder: &Path) -> io::Result<()> {
    let mut names: Vec<String> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    names.retain(|name| name != ".psync");
    names.sort();
    print_out(&format!("{}\n", names.join("  ")));
    Ok(())
}
