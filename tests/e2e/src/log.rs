//! What a program logged: JSON lines as `tracing-subscriber` writes them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::Result;
use serde_json::{Map, Value};

use crate::wait;

/// A log file, read anew at every look.
#[derive(Debug, Clone)]
pub struct Log {
    path: PathBuf,
    allowed: Arc<Mutex<Vec<String>>>,
}

/// One line of a log.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it was logged, where the line says so.
    pub time: Option<SystemTime>,
    /// `INFO`, `WARN` and so on; empty if the line isn't JSON.
    pub level: String,
    /// The line's text, or the whole line if it isn't JSON.
    pub message: String,
    /// All values beside the message.
    pub fields: Map<String, Value>,
}

impl Log {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, allowed: Arc::default() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All that was logged so far.
    pub fn lines(&self) -> Vec<Line> {
        let bytes = fs::read(&self.path).unwrap_or_default();
        // A line without its end is still being written.
        let text = String::from_utf8_lossy(&bytes);
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(Line::parse).collect()
    }

    /// The first line about `event`.
    pub fn find(&self, event: &str) -> Option<Line> {
        self.find_nth(event, 0)
    }

    /// The line about `event` after `count` others about it.
    pub fn find_nth(&self, event: &str, count: usize) -> Option<Line> {
        self.lines().into_iter().filter(|line| line.is_about(event)).nth(count)
    }

    /// How many lines are about `event`.
    pub fn count(&self, event: &str) -> usize {
        self.lines().iter().filter(|line| line.is_about(event)).count()
    }

    /// Waits for the first line about `event`.
    pub fn wait_for(&self, event: &str, deadline: Duration) -> Result<Line> {
        let what = format!("{event:?} in {}", self.path.display());
        wait::until(&what, deadline, || self.find(event))
    }

    /// From now on, warnings and errors that contain `text` are expected: the test provokes them.
    pub fn allow(&self, text: &str) {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }

    /// Warnings, errors and panics that nobody allowed.
    pub fn complaints(&self) -> Vec<String> {
        let allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.path.file_stem().unwrap_or_default().to_string_lossy();
        self.lines()
            .into_iter()
            .filter(Line::is_complaint)
            .map(|line| format!("{file}: {line}"))
            .filter(|text| !allowed.iter().any(|expected| text.contains(expected)))
            .collect()
    }

    /// The last lines, for people.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lines();
        let last = &lines[lines.len().saturating_sub(count)..];
        last.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}

impl Line {
    fn parse(text: &str) -> Self {
        let Ok(Value::Object(mut object)) = serde_json::from_str(text) else {
            return Self {
                time: None,
                level: String::new(),
                message: text.to_owned(),
                fields: Map::new(),
            };
        };
        let time = object.get("timestamp").and_then(Value::as_str);
        let time = time.and_then(|time| humantime::parse_rfc3339(time).ok());
        let level = object.get("level").and_then(Value::as_str).unwrap_or_default().to_owned();
        // The values stand in an object of their own, or flattened into the line.
        let mut fields = match object.remove("fields") {
            Some(Value::Object(fields)) => fields,
            _ => {
                for known in ["timestamp", "level", "target"] {
                    object.remove(known);
                }
                object
            }
        };
        let message = match fields.remove("message") {
            Some(Value::String(message)) => message,
            _ => String::new(),
        };
        Self { time, level, message, fields }
    }

    /// Whether the field `event` or else the message says `event`.
    pub fn is_about(&self, event: &str) -> bool {
        self.text("event") == Some(event) || self.message == event
    }

    /// A field that is a string.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str()
    }

    /// How much later than `earlier` this was logged; nothing if it wasn't, or if a time is missing.
    pub fn since(&self, earlier: &Line) -> Option<Duration> {
        self.time?.duration_since(earlier.time?).ok()
    }

    fn is_complaint(&self) -> bool {
        matches!(self.level.as_str(), "WARN" | "ERROR") || self.message.contains("panicked at")
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.level.is_empty() {
            write!(f, "{} ", self.level)?;
        }
        f.write_str(&self.message)?;
        for (name, value) in &self.fields {
            write!(f, " {name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_nested_and_flattened() {
        let nested = r#"{"timestamp":"2026-01-02T03:04:05.25Z","level":"INFO","target":"connlib",
            "fields":{"message":"authorized","event":"authorized","site":"office"}}"#;
        let flat = r#"{"timestamp":"2026-01-02T03:04:06Z","level":"INFO","message":"authorized",
            "event":"authorized","site":"office"}"#;
        let [nested, flat] = [nested, flat].map(Line::parse);

        for line in [&nested, &flat] {
            assert!(line.is_about("authorized"));
            assert_eq!(line.text("site"), Some("office"));
            assert!(!line.is_complaint());
        }
        assert_eq!(flat.since(&nested), Some(Duration::from_millis(750)));
    }

    #[test]
    fn warnings_errors_and_panics_are_complaints_unless_allowed() {
        let path = std::env::temp_dir().join(format!("log-test-{}.log", std::process::id()));
        let text = concat!(
            r#"{"level":"INFO","fields":{"message":"fine"}}"#,
            "\n",
            r#"{"level":"WARN","fields":{"message":"portal is away"}}"#,
            "\n",
            "thread 'main' panicked at src/main.rs:1:1:\n",
            r#"{"level":"ERROR","fields":{"message":"half a line"}}"#,
        );
        fs::write(&path, text).unwrap();
        let log = Log::new(path.clone());

        assert_eq!(log.complaints().len(), 2, "{:?}", log.complaints());
        log.allow("portal is away");
        log.allow("panicked");
        assert!(log.complaints().is_empty(), "{:?}", log.complaints());
        fs::remove_file(path).unwrap();
    }
}
