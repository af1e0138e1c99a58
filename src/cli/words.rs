//! Words of a command line that are the options of a sync, but for a few of the command's own: the
//! rest stays as it was typed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::exit::Exit;
use super::subject::Failure;

/// What was typed, less what has been taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Words(pub(super) Vec<OsString>);

impl Words {
    /// Takes a flag such as `--repair`, and says whether it was there.
    pub(super) fn take_flag(&mut self, flag: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|word| word != flag);
        self.0.len() < before
    }

    /// Takes an option with its value, as `--name VALUE`, `--name=VALUE`, or by its letter as `-n
    /// VALUE` and `-nVALUE`. Of several the last counts.
    pub(super) fn take_value(
        &mut self,
        name: &str,
        letter: Option<&str>,
    ) -> Result<Option<OsString>, Failure> {
        let (mut rest, mut found) = (Vec::with_capacity(self.0.len()), None);
        let with_equals = format!("{name}=");
        let mut words = std::mem::take(&mut self.0).into_iter();
        while let Some(word) = words.next() {
            let joined = word.as_bytes().strip_prefix(with_equals.as_bytes());
            let joined = joined.or_else(|| word.as_bytes().strip_prefix(letter?.as_bytes()));
            let value = match joined {
                _ if word == name || letter.is_some_and(|letter| word == letter) => words.next(),
                Some(value) => Some(OsStr::from_bytes(value).to_os_string()),
                None => {
                    rest.push(word);
                    continue;
                }
            };
            let missing = || Failure::new(Exit::Usage, format!("{name} needs a value"));
            found = Some(value.ok_or_else(missing)?);
        }
        self.0 = rest;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Words {
        Words(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn options_of_a_command_are_taken_wherever_they_stand_and_the_rest_stays() {
        for line in [
            "-o x a --repair b",
            "a b --repair --output x",
            "a --repair -ox b",
            "--output=x --repair a b",
        ] {
            let mut words = words(line);
            assert_eq!(
                words.take_value("--output", Some("-o")).unwrap(),
                Some("x".into()),
                "{line}"
            );
            assert!(words.take_flag("--repair"), "{line}");
            assert!(!words.take_flag("--repair"), "{line}");
            assert_eq!(words, self::words("a b"), "{line}");
        }
        assert!(words("a b -o").take_value("--output", Some("-o")).is_err());
        assert_eq!(words("a b").take_value("--output", Some("-o")).unwrap(), None);
    }
}
