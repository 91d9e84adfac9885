//! Lists whose elements are decoded one by one: a bad one is left out and reported.

use std::fmt;
use std::ops::Deref;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// How many left-out elements of one list are described; the rest is only counted.
const MAX_REPORTS: usize = 8;

/// A list of the wire. Elements that do not decode are left out; [`Tolerant::skipped`] tells which.
///
/// `null` is the empty list. Encoding writes the elements that are there.
#[derive(Clone, PartialEq, Eq)]
pub struct Tolerant<T> {
    elements: Vec<T>,
    reports: Vec<Skipped>,
    skipped: usize,
}

/// An element that was left out of a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Skipped {
    /// Its place in the list, from 0.
    pub index: usize,
    /// Its `type`, as far as it says one (at most 32 characters).
    pub kind: Option<String>,
    /// What is wrong. May quote a value of the element: for DEBUG only.
    pub error: String,
}

impl<T> Tolerant<T> {
    /// The elements that were left out, at most the first 8.
    pub fn skipped(&self) -> &[Skipped] {
        &self.reports
    }

    /// How many elements were left out.
    pub fn skipped_count(&self) -> usize {
        self.skipped
    }

    /// The elements.
    pub fn into_vec(self) -> Vec<T> {
        self.elements
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Tolerant<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let values = Option::<Vec<Value>>::deserialize(deserializer)?.unwrap_or_default();
        let mut list = Self::default();
        for (index, value) in values.into_iter().enumerate() {
            let kind = value.get("type").and_then(Value::as_str);
            let kind = kind.map(|kind| kind.chars().take(32).collect());
            match T::deserialize(value) {
                Ok(element) => list.elements.push(element),
                Err(error) => {
                    list.skipped += 1;
                    if list.reports.len() < MAX_REPORTS {
                        list.reports.push(Skipped { index, kind, error: error.to_string() });
                    }
                }
            }
        }
        Ok(list)
    }
}

impl<T: Serialize> Serialize for Tolerant<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.elements.serialize(serializer)
    }
}

impl<T: fmt::Debug> fmt::Debug for Tolerant<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.elements.fmt(f)
    }
}

impl<T> Default for Tolerant<T> {
    fn default() -> Self {
        Self { elements: Vec::new(), reports: Vec::new(), skipped: 0 }
    }
}

impl<T> Deref for Tolerant<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.elements
    }
}

impl<T> From<Vec<T>> for Tolerant<T> {
    fn from(elements: Vec<T>) -> Self {
        Self { elements, ..Self::default() }
    }
}

impl<T> FromIterator<T> for Tolerant<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        Vec::from_iter(elements).into()
    }
}

impl<T> IntoIterator for Tolerant<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.elements.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Tolerant<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.elements.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(json: &str) -> Tolerant<u8> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_bad_element_costs_only_itself() {
        let list = decode(r#"[1, "two", 300, {"type":"x"}, 5]"#);
        assert_eq!(*list, [1, 5]);
        assert_eq!(list.skipped().iter().map(|s| s.index).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(list.skipped()[2].kind.as_deref(), Some("x"));
        assert_eq!(serde_json::to_string(&list).unwrap(), "[1,5]");
    }

    #[test]
    fn null_is_the_empty_list() {
        assert!(decode("null").is_empty());
        assert!(serde_json::from_str::<Tolerant<u8>>("{}").is_err());
    }

    #[test]
    fn reports_are_bounded() {
        let list = decode(&format!("{:?}", vec![999; 1000]));
        assert_eq!((list.skipped().len(), list.skipped_count()), (8, 1000));
    }
}
