//! What is sent: every byte follows from the number of the session and that of the datagram, so damage shows.

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::SmallRng};

/// The numbers of session and datagram.
const HEADER: usize = 12;
const LONGEST: usize = 1280;

/// The payload of a datagram.
pub(super) fn of(session: u64, number: u32) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(session ^ u64::from(number).rotate_right(32));
    let mut payload = vec![0; rng.random_range(HEADER..=LONGEST)];
    let (header, rest) = payload.split_at_mut(HEADER);
    header[..8].copy_from_slice(&session.to_be_bytes());
    header[8..].copy_from_slice(&number.to_be_bytes());
    rng.fill_bytes(rest);
    payload
}

/// The number of the datagram if this is one of the session, intact.
pub(super) fn number(session: u64, payload: &[u8]) -> Option<u32> {
    let number = u32::from_be_bytes(*payload.get(8..)?.first_chunk()?);
    (payload == of(session, number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_shows() {
        let payload = of(7, 300);
        assert_eq!(number(7, &payload), Some(300));
        assert_eq!(number(8, &payload), None);
        assert_eq!(number(7, &payload[..payload.len() - 1]), None);
        assert_eq!(number(7, &payload[..5]), None);
        for index in 0..payload.len() {
            let mut damaged = payload.clone();
            damaged[index] ^= 1;
            assert_eq!(number(7, &damaged), None, "byte {index}");
        }
    }
}
