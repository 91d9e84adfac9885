//! Patterns of DNS resources: globs over the labels of a name.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::name::{MAX_NAME_LEN, Name, NameError, check_labels};

/// A pattern that names are matched against, without regard to case.
///
/// - `?` stands for exactly one character of a label;
/// - `*` for any run of characters inside one label, also an empty one;
/// - `**`, as a label of its own, for any number of whole labels, also none;
/// - a leading `*.` before a rest without wildcards also matches that rest: `*.example.com`
///   matches `example.com` and `a.example.com`, but not `a.b.example.com`.
///
/// Patterns are ordered by specificity, **the most specific first**. They are compared from the
/// right: a character before `?` before `*`, the end of a pattern before anything else.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern(Arc<str>);

/// Why a text is no [`Pattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The lengths are those of no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Something else than letters, digits, `-`, `_`, `.` and the wildcards.
    #[error("the pattern has the character {0:?}, use letters, digits, '-', '_', '.', '*' or '?'")]
    BadCharacter(char),
    /// `**` next to something else than a dot, or three stars in a row.
    #[error("the pattern has '**' inside a label, where it must be the whole label")]
    BadDoubleStar,
}

impl Pattern {
    /// The pattern as text, lower case and without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is one of those that the pattern stands for.
    pub fn matches(&self, name: &Name) -> bool {
        if self.0.strip_prefix("*.") == Some(name.as_str()) {
            // The rest is taken literally. With wildcards in it, a gateway of the same protocol
            // would not agree that the apex belongs to the resource.
            return true;
        }
        matches_labels(self.0.split('.'), name.as_str().split('.'))
    }

    /// The longest run of labels without wildcards at the end; all names that match end with it.
    pub(crate) fn literal_tail(&self) -> &str {
        let Some(wildcard) = self.0.rfind(['*', '?']) else { return &self.0 };
        self.0[wildcard..].split_once('.').map_or("", |(_, tail)| tail)
    }

    /// How characters compare, from the right, for [`Ord`]: the smaller the more specific.
    fn rank(byte: u8) -> (u8, u8) {
        match byte {
            b'*' => (2, 0),
            b'?' => (1, 0),
            literal => (0, u8::MAX - literal),
        }
    }
}

/// Matches label by label. On a mismatch, the last `**` swallows one more label; going back to an
/// earlier one can't help, as it could only leave less for the rest. Thus the cost is at most the
/// product of the numbers of labels.
fn matches_labels<'a, P, N>(mut pattern: P, mut name: N) -> bool
where
    P: Iterator<Item = &'a str> + Clone,
    N: Iterator<Item = &'a str> + Clone,
{
    let mut retry: Option<(P, N)> = None;
    loop {
        match pattern.next() {
            Some("**") => {
                retry = Some((pattern.clone(), name.clone()));
                continue;
            }
            Some(glob) => {
                if name.next().is_some_and(|l| matches_label(glob.as_bytes(), l.as_bytes())) {
                    continue;
                }
            }
            None => {
                if name.next().is_none() {
                    return true;
                }
            }
        }
        let Some((after_star, swallowed)) = &mut retry else { return false };
        if swallowed.next().is_none() {
            return false;
        }
        (pattern, name) = (after_star.clone(), swallowed.clone());
    }
}

/// Matches one label; the last `*` swallows more on a mismatch.
fn matches_label(glob: &[u8], label: &[u8]) -> bool {
    let (mut g, mut l) = (0, 0);
    let mut retry = None;
    while l < label.len() {
        match glob.get(g) {
            Some(b'*') => {
                g += 1;
                retry = Some((g, l));
            }
            Some(&c) if c == b'?' || c == label[l] => {
                g += 1;
                l += 1;
            }
            _ => {
                let Some((after_star, swallowed)) = &mut retry else { return false };
                *swallowed += 1;
                (g, l) = (*after_star, *swallowed);
            }
        }
    }
    glob[g..].iter().all(|c| *c == b'*')
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(NameError::Empty.into());
        }
        if text.len() > MAX_NAME_LEN {
            return Err(NameError::TooLong.into());
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.*?".contains(c);
        if let Some(character) = text.chars().find(|c| !allowed(*c)) {
            return Err(PatternError::BadCharacter(character));
        }
        check_labels(text)?;
        if text.split('.').any(|label| label != "**" && label.contains("**")) {
            return Err(PatternError::BadDoubleStar);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> Ordering {
        let [a, b] = [self, other].map(|p| p.0.bytes().rev().map(Self::rank));
        a.cmp(b)
    }
}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn matches_exactly_the_names_it_stands_for() {
        for (text, yes, no) in [
            (
                "example.com",
                &["example.com", "EXAMPLE.com."][..],
                &["a.example.com", "com", "example.org", "xexample.com"][..],
            ),
            ("Example.COM.", &["example.com"], &["example.co"]),
            (
                "*.example.com",
                &["example.com", "a.example.com", "*.example.com"],
                &["a.b.example.com", "aexample.com", "com"],
            ),
            (
                "**.example.com",
                &["example.com", "a.example.com", "a.b.c.d.example.com"],
                &["aexample.com", "example.com.org"],
            ),
            ("?.example.com", &["a.example.com"], &["ab.example.com", "example.com"]),
            ("a?c.example.com", &["abc.example.com"], &["ac.example.com", "a.c.example.com"]),
            ("*ample.com", &["example.com", "ample.com"], &["a.example.com"]),
            ("ex*.com", &["example.com", "ex.com"], &["e.com", "ex.a.com"]),
            (
                "e*a*e.com",
                &["example.com", "eae.com", "eaaee.com"],
                &["exmple.com", "examplex.com"],
            ),
            (
                "us-*.db.*.corp",
                &["us-1.db.x.corp", "us-.db.y.corp"],
                &["us-1.db.corp", "us-1.x.db.y.corp", "eu-1.db.x.corp"],
            ),
            ("a.**.z", &["a.z", "a.b.z", "a.b.c.z", "a.z.z"], &["az", "b.z", "a.zz"]),
            ("**.b.**.z", &["b.z", "a.b.z", "a.b.b.c.z", "b.b.z"], &["a.z", "b", "z.b"]),
            ("**.a*.?.z", &["ab.c.z", "x.a.c.c.a.d.z"], &["ab.cd.z", "ab.z"]),
            ("a.**", &["a", "a.b", "a.b.c"], &["b", "b.a"]),
            ("**", &["a", "a.b.c"], &[]),
            ("*", &["com", "a"], &["a.com"]),
            ("?", &["a"], &["ab", "a.b"]),
            ("*.*.example.com", &["a.b.example.com"], &["example.com", "a.example.com"]),
            ("*.us-?.corp", &["a.us-1.corp"], &["us-1.corp"]),
            ("_ldap._tcp.*.corp", &["_ldap._tcp.x.corp"], &["ldap.tcp.x.corp"]),
        ] {
            let pattern = pattern(text);
            for name in yes {
                assert!(pattern.matches(&name.parse().unwrap()), "{pattern} must match {name}");
            }
            for name in no {
                assert!(!pattern.matches(&name.parse().unwrap()), "{pattern} mustn't match {name}");
            }
        }
    }

    #[test]
    fn refuses_malformed_patterns() {
        let long = "a".repeat(64);
        for (text, error) in [
            ("", PatternError::Name(NameError::Empty)),
            (".", PatternError::Name(NameError::Empty)),
            ("a..b", PatternError::Name(NameError::EmptyLabel)),
            (".example.com", PatternError::Name(NameError::EmptyLabel)),
            (&long, PatternError::Name(NameError::LabelTooLong)),
            (&"a.".repeat(128), PatternError::Name(NameError::TooLong)),
            ("***.com", PatternError::BadDoubleStar),
            ("a**.com", PatternError::BadDoubleStar),
            ("**a.com", PatternError::BadDoubleStar),
            ("[a-c].com", PatternError::BadCharacter('[')),
            ("a b.com", PatternError::BadCharacter(' ')),
            ("bücher.example", PatternError::BadCharacter('ü')),
            ("a/b.com", PatternError::BadCharacter('/')),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn orders_by_specificity() {
        let expected = [
            "example.com",
            "bar.example.com",
            "*.bar.example.com",
            "foo.example.com",
            "?.example.com",
            "*.example.com",
            "**.example.com",
            "*ample.com",
            "*.com",
        ];
        let mut patterns = expected.map(pattern);
        // From any order: rotations and their reversals.
        for turn in 0..expected.len() {
            patterns.rotate_left(turn);
            patterns.reverse();
            patterns.sort();
            assert_eq!(patterns.each_ref().map(Pattern::as_str), expected);
        }
    }

    #[test]
    fn literal_tail_is_what_all_matching_names_end_with() {
        for (text, tail) in [
            ("example.com", "example.com"),
            ("*.example.com", "example.com"),
            ("**.example.com", "example.com"),
            ("*ample.com", "com"),
            ("us-*.db.?.corp", "corp"),
            ("a.com*", ""),
            ("**", ""),
        ] {
            assert_eq!(pattern(text).literal_tail(), tail, "{text}");
        }
    }

    #[test]
    fn matches_as_the_definition_says() {
        use rand_chacha::ChaCha20Rng;
        use rand_chacha::rand_core::{Rng, SeedableRng};

        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let mut text = |alphabet: &[u8]| -> String {
            let length = 1 + rng.next_u32() % 8;
            let byte = |_| alphabet[rng.next_u32() as usize % alphabet.len()];
            (0..length).map(byte).map(char::from).collect()
        };
        let mut matches = 0;
        for _ in 0..50_000 {
            let (Ok(pattern), Ok(name)) =
                (text(b"ab..**?").parse::<Pattern>(), text(b"aab.").parse::<Name>())
            else {
                continue;
            };
            let labels = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
            let apex = pattern.as_str().strip_prefix("*.") == Some(name.as_str());
            let expected = apex || defined(&labels(pattern.as_str()), &labels(name.as_str()));
            assert_eq!(pattern.matches(&name), expected, "{pattern} {name}");
            matches += u32::from(expected);
        }
        assert!(matches > 1000, "{matches}");
    }

    /// The definition, with every possibility tried out.
    fn defined(pattern: &[String], name: &[String]) -> bool {
        match (pattern, name) {
            ([star, rest @ ..], _) if star == "**" => {
                (0..=name.len()).any(|n| defined(rest, &name[n..]))
            }
            ([p, pattern @ ..], [n, name @ ..]) => {
                defined_label(p.as_bytes(), n.as_bytes()) && defined(pattern, name)
            }
            _ => pattern.is_empty() && name.is_empty(),
        }
    }

    fn defined_label(glob: &[u8], label: &[u8]) -> bool {
        match (glob, label) {
            ([b'*', rest @ ..], _) => (0..=label.len()).any(|n| defined_label(rest, &label[n..])),
            ([b'?', glob @ ..], [_, label @ ..]) => defined_label(glob, label),
            ([a, glob @ ..], [b, label @ ..]) => a == b && defined_label(glob, label),
            _ => glob.is_empty() && label.is_empty(),
        }
    }

    #[test]
    fn hostile_patterns_and_names_cost_little() {
        // Exponential in a naive matcher.
        let pattern = pattern(&format!("{}z", "**.a*a*a*a*a*.".repeat(16)));
        let name = "aaaaaaaaaaaa.".repeat(19).parse::<Name>().unwrap();
        assert!(!pattern.matches(&name));
    }
}
