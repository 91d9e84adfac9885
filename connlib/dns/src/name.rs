//! Domain names in the one form in which they are compared.

use std::borrow::Borrow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// The longest name in text form, without the trailing dot (RFC 1035 §2.3.4).
pub const MAX_NAME_LEN: usize = 253;
const MAX_LABEL_LEN: usize = 63;

/// A domain name: lower case, no trailing dot, at least one label, at most 253 characters.
///
/// Labels are made of visible ASCII characters other than the dot. That is more than host names
/// have (`_ldap._tcp`, `*`), and less than the wire allows: a query for a name beyond this form is
/// simply not ours and is passed on untouched.
///
/// Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Why a text or a wire name is no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The root, or an empty text.
    #[error("the name is empty")]
    Empty,
    /// More than 253 characters.
    #[error("the name is longer than {MAX_NAME_LEN} characters")]
    TooLong,
    /// Two dots in a row or a leading dot.
    #[error("the name has an empty label")]
    EmptyLabel,
    /// More than 63 characters between two dots.
    #[error("the name has a label of more than {MAX_LABEL_LEN} characters")]
    LabelTooLong,
    /// Something else than visible ASCII.
    #[error("the name has the byte {0:#04x}, which is not visible ASCII")]
    BadByte(u8),
}

impl Name {
    /// The name as text, lower case and without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name itself, then the name without its first label, and so on to the last label.
    pub(crate) fn suffixes(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(self.as_str()), |s| s.split_once('.').map(|(_, rest)| rest))
    }

    /// The address that this name asks for, if it is a reverse name: exactly four labels below
    /// `in-addr.arpa` (RFC 1035 §3.5) or 32 below `ip6.arpa` (RFC 3596 §2.5).
    pub fn reverse_address(&self) -> Option<IpAddr> {
        if let Some(labels) = self.0.strip_suffix(".in-addr.arpa") {
            let mut octets = [0; 4];
            exactly(labels, &mut octets, |label| {
                // `parse` alone would take "+1" and "01", which no resolver writes.
                let octet: u8 = label.parse().ok()?;
                (octet.to_string() == label).then_some(octet)
            })?;
            octets.reverse();
            return Some(Ipv4Addr::from(octets).into());
        }

        let labels = self.0.strip_suffix(".ip6.arpa")?;
        let mut nibbles = [0; 32];
        exactly(labels, &mut nibbles, |label| match label.as_bytes() {
            [digit] => char::from(*digit).to_digit(16).and_then(|d| u8::try_from(d).ok()),
            _ => None,
        })?;
        let bits = nibbles.iter().rev().fold(0u128, |bits, nibble| bits << 4 | u128::from(*nibble));
        Some(Ipv6Addr::from_bits(bits).into())
    }

    /// The uncompressed form of messages, ending with the root label.
    pub(crate) fn to_wire(&self) -> Vec<u8> {
        let mut wire = Vec::with_capacity(self.0.len() + 2);
        for label in self.0.split('.') {
            // INVARIANT: labels are at most 63 bytes long.
            wire.push(label.len() as u8);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        wire
    }

    /// Reads uncompressed labels, without the root label at their end.
    pub(crate) fn from_labels<'a>(
        labels: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Self, NameError> {
        let mut text = String::new();
        for label in labels {
            if let Some(byte) = label.iter().find(|b| !b.is_ascii_graphic() || **b == b'.') {
                return Err(NameError::BadByte(*byte));
            }
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
        }
        text.parse()
    }
}

/// Fills `values` from the labels, from left to right; `None` unless there are exactly as many.
fn exactly<const N: usize>(
    labels: &str,
    values: &mut [u8; N],
    parse: impl Fn(&str) -> Option<u8>,
) -> Option<()> {
    let mut labels = labels.split('.');
    for value in values {
        *value = parse(labels.next()?)?;
    }
    labels.next().is_none().then_some(())
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME_LEN {
            return Err(NameError::TooLong);
        }
        if let Some(byte) = text.bytes().find(|b| !b.is_ascii_graphic()) {
            return Err(NameError::BadByte(byte));
        }
        check_labels(text)?;
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

/// Checks the lengths of the labels of a text without a trailing dot.
pub(crate) fn check_labels(text: &str) -> Result<(), NameError> {
    for label in text.split('.') {
        match label.len() {
            0 => return Err(NameError::EmptyLabel),
            1..=MAX_LABEL_LEN => {}
            _ => return Err(NameError::LabelTooLong),
        }
    }
    Ok(())
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn is_lower_case_without_trailing_dot() {
        assert_eq!(name("WWW.Example.COM.").as_str(), "www.example.com");
        assert_eq!(name("www.example.com"), name("WWW.example.COM."));
    }

    #[test]
    fn refuses_what_no_message_could_carry() {
        let long_label = "a".repeat(64);
        let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "a".repeat(61));
        for (text, error) in [
            ("", NameError::Empty),
            (".", NameError::Empty),
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            ("a..", NameError::EmptyLabel),
            (long_label.as_str(), NameError::LabelTooLong),
            (&format!("{longest}b"), NameError::TooLong),
            ("a b", NameError::BadByte(b' ')),
            ("bücher.example", NameError::BadByte(0xc3)),
        ] {
            assert_eq!(text.parse::<Name>(), Err(error), "{text:?}");
        }
        assert_eq!(longest.len(), MAX_NAME_LEN);
        assert_eq!(name(&longest).as_str(), longest);
    }

    #[test]
    fn suffixes_lose_one_label_each() {
        assert_eq!(name("a.b.c").suffixes().collect::<Vec<_>>(), ["a.b.c", "b.c", "c"]);
    }

    #[test]
    fn reverse_names_have_exactly_the_right_number_of_labels() {
        let zeros = "0.".repeat(28);
        for (text, address) in [
            ("1.0.96.100.in-addr.arpa", Some("100.96.0.1")),
            ("1.0.96.100.IN-ADDR.ARPA.", Some("100.96.0.1")),
            ("5.1.0.96.100.in-addr.arpa", None),
            ("0.96.100.in-addr.arpa", None),
            ("256.0.96.100.in-addr.arpa", None),
            ("+1.0.96.100.in-addr.arpa", None),
            ("01.0.96.100.in-addr.arpa", None),
            ("in-addr.arpa", None),
            (&format!("1.0.f.{zeros}e.ip6.arpa"), Some("e000::f01")),
            (&format!("1.1.0.f.{zeros}e.ip6.arpa"), None),
            (&format!("1.f.{zeros}e.ip6.arpa"), None),
            (&format!("10.0.f.{zeros}e.ip6.arpa"), None),
            (&format!("g.0.f.{zeros}e.ip6.arpa"), None),
            ("example.com", None),
        ] {
            let address = address.map(|a| a.parse::<IpAddr>().unwrap());
            assert_eq!(name(text).reverse_address(), address, "{text}");
        }
    }

    #[test]
    fn wire_form_round_trips() {
        assert_eq!(name("Ab.c").to_wire(), b"\x02ab\x01c\x00");
        let labels: [&[u8]; 2] = [b"Ab", b"c"];
        assert_eq!(Name::from_labels(labels.into_iter()), Ok(name("ab.c")));
        let dotted: [&[u8]; 1] = [b"a.b"];
        assert_eq!(Name::from_labels(dotted.into_iter()), Err(NameError::BadByte(b'.')));
        assert_eq!(Name::from_labels(std::iter::empty()), Err(NameError::Empty));
    }
}
