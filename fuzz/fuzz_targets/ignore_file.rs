//! Filter lines and filter files: any text is patterns or is refused, and matching ends.
#![no_main]

use std::collections::HashMap;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use psync::scan::{IgnoreFile, Rules, Scope};
use psync_protocol::RelPath;
use psync_protocol::message::Filter;

fuzz_target!(|input: (&str, &[u8], &[u8])| {
    let (lines, file, path) = input;
    let filters: Vec<Filter> = lines
        .lines()
        .take(50)
        .map(|line| Filter { include: line.len() % 2 == 0, pattern: line.into() })
        .collect();
    let Ok(rules) = Rules::new(&filters) else { return };
    let (file, _) = IgnoreFile::parse(file);
    let scope = Scope::new(rules, HashMap::from([(None, Arc::new(file))]));
    let Ok(path) = RelPath::new(path) else { return };
    // What lies in a directory that is left alone is left alone, too.
    let above = path.ancestors().any(|above| !scope.covers(&above, true));
    assert!(!(above && scope.covers(&path, false)));
});
