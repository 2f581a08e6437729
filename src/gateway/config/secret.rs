//! A secret, and the file that it stands in: who rotates it writes the file anew, and the next log-in reads it.

use std::path::{Path, PathBuf};

use super::checks::secret_text;
use tidegate_core::setting::Value;

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
