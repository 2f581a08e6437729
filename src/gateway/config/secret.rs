//! A secret, and the file that it stands in: who rotates it writes the file anew, and the next log-in reads it.

use std::path::{Path, PathBuf};

use super::checks::{secret, secret_contents, secret_text};
use tidegate_core::setting::Value;

/// Tokens of one kind that are valid at a time.
const MOST_TOKENS: usize = 8;

/// Tokens of one kind for the admin port: typed as one or as a list, or one a line of a file. All are valid, so that a rotation has no
/// moment at which one side has the new token and the other the old one.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessTokens(Vec<String>);

impl AccessTokens {
    /// From a setting.
    ///
    /// # Errors
    /// A file that cannot be read, no token or too many, or text that is no secret; never the text itself.
    pub(super) fn from_value(value: &Value) -> Result<Self, String> {
        let tokens = match value {
            Value::List(tokens) => tokens.clone(),
            one => secret_contents(one)?.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect(),
        };
        if tokens.len() > MOST_TOKENS {
            return Err(format!("holds {} tokens; at most {MOST_TOKENS} may be valid at a time", tokens.len()));
        }
        let tokens: Vec<String> = tokens.iter().map(|token| secret(token)).collect::<Result<_, _>>()?;
        if tokens.is_empty() {
            return Err(String::from("holds no token; `openssl rand -hex 16` makes one"));
        }
        Ok(Self(tokens))
    }

    /// Every token of a kind, of which there may be none.
    pub fn all(tokens: Option<&Self>) -> &[String] {
        tokens.map_or(&[], |tokens| &tokens.0)
    }

    /// The one that the commands of this host send.
    pub fn first(&self) -> &str {
        &self.0[0]
    }
}

impl<const N: usize> From<[&str; N]> for AccessTokens {
    fn from(tokens: [&str; N]) -> Self {
        Self(tokens.map(str::to_owned).to_vec())
    }
}

/// A secret of the settings: typed, or in a file (`…_file`). It is printable ASCII without spaces.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    text: String,
    file: Option<PathBuf>,
}

impl Secret {
    /// From a setting.
    ///
    /// # Errors
    /// A file that cannot be read, or text that is no secret; never the text itself.
    pub(super) fn from_value(value: &Value) -> Result<Self, String> {
        let file = if let Value::InFile(path) = value { Some(path.clone()) } else { None };
        Ok(Self { text: secret_text(value)?, file })
    }

    /// The secret that a file holds.
    ///
    /// # Errors
    /// As of [`Secret::read`].
    pub fn in_file(path: PathBuf) -> Result<Self, String> {
        Self::from_value(&Value::InFile(path))
    }

    /// The secret as it was at start.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file that it stands in, where it does.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The secret as it is now: a file is read again. It blocks.
    ///
    /// # Errors
    /// Why the file cannot be read, or holds no secret, with the file's name.
    pub fn read(&self) -> Result<String, String> {
        let Some(file) = &self.file else { return Ok(self.text.clone()) };
        secret_text(&Value::InFile(file.clone())).map_err(|error| {
            if error.contains(&*file.to_string_lossy()) { error } else { format!("{}: {error}", file.display()) }
        })
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), file: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_one_or_a_list_or_the_lines_of_a_file_and_each_is_a_secret() {
        let read = |value: &Value| AccessTokens::from_value(value).map(|tokens| tokens.0.join(","));
        let text = |text: &str| Value::Text(text.to_owned());
        let list = |tokens: &[&str]| Value::List(tokens.iter().map(ToString::to_string).collect());
        assert_eq!(read(&text("one,token")).as_deref(), Ok("one,token"));
        assert_eq!(read(&text("old\r\nnew\n")).as_deref(), Ok("old,new"));
        assert_eq!(read(&list(&["old", "new"])).as_deref(), Ok("old,new"));
        let path = std::env::temp_dir().join(format!("tidegate-tokens-{}", std::process::id()));
        std::fs::write(&path, "old\nnew\n").unwrap();
        assert_eq!(read(&Value::InFile(path.clone())).as_deref(), Ok("old,new"));
        std::fs::remove_file(&path).unwrap();
        for (value, says) in [
            (text(""), "holds no token"),
            (list(&[]), "holds no token"),
            (list(&["old", ""]), "must be printable ASCII"),
            (text("old\n\nnew"), "must be printable ASCII"),
            (text("two words"), "must be printable ASCII"),
            (list(&["x"; 9]), "holds 9 tokens; at most 8"),
            (Value::Integer(1234), "is not text"),
            (Value::InFile(path), "cannot be read"),
        ] {
            let error = read(&value).unwrap_err();
            assert!(error.contains(says), "{value:?}: {error}");
            assert!(!error.contains("words") && !error.contains("1234"), "{error}");
        }
    }

    #[test]
    fn a_secret_in_a_file_is_what_the_file_holds_now() {
        let path = std::env::temp_dir().join(format!("tidegate-rotated-{}", std::process::id()));
        std::fs::write(&path, "first\n").unwrap();
        let secret = Secret::from_value(&Value::InFile(path.clone())).ok().unwrap();
        std::fs::write(&path, "second\n").unwrap();
        assert_eq!((secret.text(), secret.read()), ("first", Ok(String::from("second"))));
        std::fs::write(&path, "\n").unwrap();
        let error = secret.read().unwrap_err();
        assert!(error.contains(&path.display().to_string()) && error.contains("printable ASCII"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(secret.read().unwrap_err().contains("cannot be read"));
        assert_eq!(Secret::from("typed").read(), Ok(String::from("typed")));
    }
}
