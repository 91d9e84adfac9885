//! Listening to what the code under test logs: a warning that nobody provoked is a failure.

use std::cell::RefCell;
use std::fmt::Write as _;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

thread_local! {
    static WARNINGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Collects warnings and errors of this project's crates; shows everything if that is wanted.
pub(crate) struct Listener {
    show: bool,
}

impl Listener {
    pub(crate) fn new() -> Self {
        Self { show: std::env::var_os("CONNLIB_SIM_TRACE").is_some() }
    }
}

/// The warnings of this thread since the last call.
pub(crate) fn take_warnings() -> Vec<String> {
    WARNINGS.with(|warnings| std::mem::take(&mut *warnings.borrow_mut()))
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // boringtun warns of what is normal, like a handshake that is repeated.
        let limit = if self.show { Level::DEBUG } else { Level::WARN };
        metadata.target().starts_with("connlib") && *metadata.level() <= limit
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = format!("{} {}", event.metadata().level(), event.metadata().target());
        event.record(&mut Line(&mut line));
        if self.show {
            println!("            {line}");
        }
        if *event.metadata().level() <= Level::WARN {
            WARNINGS.with(|warnings| warnings.borrow_mut().push(line));
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}
