//! What the value of a setting may be: how it is written, and how it is understood.

use toml::de::DeValue;

/// A value as it was written: in a file, or as bare text on the command line or in the
/// environment.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Written<'a> {
    Text(&'a str),
    Toml(&'a DeValue<'a>),
}

impl Written<'_> {
    /// For an error.
    pub(super) fn shown(self) -> String {
        match self {
            Written::Text(text) => quoted(text),
            Written::Toml(DeValue::String(text)) => quoted(text),
            Written::Toml(DeValue::Integer(number)) => number.to_string(),
            Written::Toml(DeValue::Float(number)) => number.to_string(),
            Written::Toml(DeValue::Boolean(flag)) => flag.to_string(),
            Written::Toml(DeValue::Datetime(time)) => time.to_string(),
            Written::Toml(DeValue::Array(_)) => "a list".into(),
            Written::Toml(DeValue::Table(_)) => "a table".into(),
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", psync_protocol::path::printable(text.as_bytes()))
}

/// A type that a setting may have.
pub(crate) trait Setting: Sized {
    /// What is expected, to follow "is not".
    const EXPECTED: &'static str;

    /// The words among which one has to be chosen, where that is so.
    fn words() -> Vec<&'static str> {
        Vec::new()
    }

    /// Understands bare text.
    fn from_text(text: &str) -> Option<Self>;

    /// Understands a value of a file: as a rule, a string.
    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().and_then(Self::from_text)
    }

    /// Understands what was written.
    fn from_written(written: Written<'_>) -> Option<Self> {
        match written {
            Written::Text(text) => Self::from_text(text.trim()),
            Written::Toml(value) => Self::from_toml(value),
        }
    }

    /// Whether it stops a run as soon, or keeps as much, as another value: of what is no guard and
    /// keeps nothing, always.
    fn is_as_strict_as(&self, _other: &Self) -> bool {
        true
    }

    /// As a file would say it; none for what is not set.
    fn written(&self) -> Option<String>;
}

/// A string of TOML.
pub(super) fn toml_string(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A string, or a number that is as good as one.
pub(super) fn string_or_number<T: Setting>(value: &DeValue<'_>) -> Option<T> {
    match value {
        DeValue::Integer(number) if number.radix() == 10 => T::from_text(number.as_str()),
        value => value.as_str().and_then(T::from_text),
    }
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_text(text: &str) -> Option<bool> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        }
    }

    fn from_toml(value: &DeValue<'_>) -> Option<bool> {
        match value {
            DeValue::String(text) if matches!(&**text, "yes" | "no") => Some(text == "yes"),
            value => value.as_bool(),
        }
    }

    /// What is kept is switched on.
    fn is_as_strict_as(&self, other: &bool) -> bool {
        self >= other
    }

    fn written(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for i32 {
    const EXPECTED: &'static str = "a number";

    fn from_text(text: &str) -> Option<i32> {
        text.parse().ok()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<i32> {
        value.as_integer().and_then(|_| string_or_number(value))
    }

    fn written(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "text, with something in it";

    fn from_text(text: &str) -> Option<String> {
        (!text.trim().is_empty() && !text.contains(['\0', '\n'])).then(|| text.to_string())
    }

    fn written(&self) -> Option<String> {
        Some(toml_string(self))
    }
}

/// What need not be set.
impl<T: Setting> Setting for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn words() -> Vec<&'static str> {
        T::words()
    }

    fn from_text(text: &str) -> Option<Option<T>> {
        T::from_text(text).map(Some)
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Option<T>> {
        T::from_toml(value).map(Some)
    }

    fn written(&self) -> Option<String> {
        self.as_ref().and_then(Setting::written)
    }
}

/// A program with arguments: words, split at spaces outside quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    text: String,
    words: Vec<String>,
}

impl Words {
    /// One word that needs no quotes.
    pub(super) fn one(word: &str) -> Words {
        Words { text: word.into(), words: vec![word.into()] }
    }

    /// The words: at least one.
    pub fn words(&self) -> &[String] {
        &self.words
    }
}

impl Setting for Words {
    const EXPECTED: &'static str = "a program with arguments, whose quotes are closed";

    fn from_text(text: &str) -> Option<Words> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quote = None;
        for c in text.chars() {
            match (quote, c) {
                (Some(open), _) if c == open => quote = None,
                (None, '\'' | '"') => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (None, ' ' | '\t') => words.extend(word.take()),
                _ => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        let sound = quote.is_none() && !words.is_empty() && !text.contains(['\0', '\n']);
        sound.then(|| Words { text: text.into(), words })
    }

    fn written(&self) -> Option<String> {
        Some(toml_string(&self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_words_together() {
        let words = |text: &str| Words::from_text(text).map(|words| words.words);
        let expected = ["ssh", "-o", "Proxy Jump=a b"].map(String::from);
        assert_eq!(words("ssh -o 'Proxy Jump=a b'"), Some(expected.to_vec()));
        assert_eq!(words("ssh 'x"), None);
        assert_eq!(words("  "), None);
    }
}
