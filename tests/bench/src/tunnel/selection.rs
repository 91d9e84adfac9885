//! What `--only` leaves.

use anyhow::{Result, bail};

use super::case::{Case, Direction, Protocol};
use crate::subject::Subject;

/// Of each kind what was named; everything if nothing was.
#[derive(Debug, Default)]
pub(super) struct Selection {
    subjects: Vec<Subject>,
    protocols: Vec<Protocol>,
    directions: Vec<Direction>,
}

impl Selection {
    /// From words that are each a protocol, a direction or a part of a subject's name.
    pub(super) fn parse(words: &[String]) -> Result<Self> {
        let mut selection = Self::default();
        for word in words {
            let word = word.to_lowercase();
            let subjects = Subject::ALL.iter().filter(|subject| subject.name().contains(&word));
            match word.as_str() {
                "tcp" => selection.protocols.push(Protocol::Tcp),
                "udp" => selection.protocols.push(Protocol::Udp),
                "up" => selection.directions.push(Direction::Up),
                "down" => selection.directions.push(Direction::Down),
                _ if !word.is_empty() && subjects.clone().next().is_some() => {
                    selection.subjects.extend(subjects);
                }
                _ => {
                    let names = Subject::ALL.map(Subject::name).join(", ");
                    bail!("nothing is called {word:?}; there are {names}, tcp, udp, up, down");
                }
            }
        }
        Ok(selection)
    }

    pub(super) fn has_subject(&self, subject: Subject) -> bool {
        allows(&self.subjects, subject)
    }

    pub(super) fn has_case(&self, case: &Case) -> bool {
        allows(&self.protocols, case.protocol) && allows(&self.directions, case.direction)
    }
}

fn allows<T: PartialEq>(named: &[T], one: T) -> bool {
    named.is_empty() || named.contains(&one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Selection> {
        Selection::parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn without_words_everything_is_selected() {
        let selection = parse(&[]).unwrap();
        assert!(Subject::ALL.into_iter().all(|subject| selection.has_subject(subject)));
        assert!(Case::all(&[1, 8]).iter().all(|case| selection.has_case(case)));
    }

    #[test]
    fn words_of_one_kind_add_up_and_kinds_narrow_each_other() {
        let selection = parse(&["connlib", "wireguard", "UDP"]).unwrap();
        let subjects = Subject::ALL.map(|subject| selection.has_subject(subject));
        assert_eq!(subjects, [true, true, false, false]);
        let case = |protocol, direction| Case { protocol, direction, streams: 1 };
        assert!(selection.has_case(&case(Protocol::Udp, Direction::Down)));
        assert!(!selection.has_case(&case(Protocol::Tcp, Direction::Down)));
        let selection = parse(&["down"]).unwrap();
        assert!(!selection.has_case(&case(Protocol::Udp, Direction::Up)));
    }

    #[test]
    fn an_unknown_word_is_an_error_that_names_the_known_ones() {
        let error = parse(&["openvpn"]).unwrap_err().to_string();
        assert!(error.contains("openvpn") && error.contains("boringtun-cli"), "{error}");
        assert!(parse(&[""]).is_err());
    }
}
