//! The policy file: what there is, who may reach what.
//!
//! [`parse`] reads the text as a whole and either gives a [`Policy`], in which every name is
//! resolved and every value checked, or says everything that is wrong with line and column.

mod diagnostic;
mod file;
mod ids;
mod model;
mod parse;
mod values;

pub use diagnostic::{Diagnostic, Rejected, Severity};
pub use ids::{Kind, derive as derive_id, device as device_id};
pub use model::{Client, Dns, Gateway, Policy, Relay, RelayAccess, Resource, Rule, Site, Target};
pub use parse::{EVERYONE, parse};
pub(crate) use values::duration;
