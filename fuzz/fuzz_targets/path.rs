//! Paths from the line: one that is accepted cannot leave its root, and prints without control
//! characters.
#![no_main]

use libfuzzer_sys::fuzz_target;
use psync_protocol::RelPath;
use psync_protocol::path::printable;

fuzz_target!(|input: &[u8]| {
    let shown = printable(input);
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    let Ok(path) = RelPath::new(input) else { return };
    assert_eq!(path.as_bytes(), input);
    for part in input.split(|&byte| byte == b'/') {
        assert!(!part.is_empty() && part != b"." && part != b"..");
        assert!(part.len() <= 255 && !part.contains(&0));
    }
    let mut depth = 0;
    for above in path.ancestors() {
        assert!(path.is_below(&above));
        depth += 1;
    }
    assert_eq!(depth, input.iter().filter(|&&byte| byte == b'/').count());
    if let (Some(parent), Ok(joined)) = (path.parent(), path.with_name(path.name())) {
        assert_eq!(parent.join(path.name()).ok(), Some(joined));
    }
});
