//! Answers of servers, kept for as long as they say.

use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use lru::LruCache;

use crate::name::Name;
use crate::query::Query;
use crate::wire::{HEADER_LEN, Question, RCODE, Records, Section, TC, TYPE_OPT, put_u16};

const MAX_ENTRIES: usize = 1024;
const MAX_BYTES: usize = 512 * 1024;
/// Longer messages are rare, and would push out many short ones.
const MAX_MESSAGE_LEN: usize = 8 * 1024;

/// Answers of a shorter life than this are not worth the memory.
const MIN_TTL: u32 = 5;
const MAX_TTL: u32 = 24 * 60 * 60;

/// Positive answers of servers. The least recently used go first when there are more than 1024,
/// or more than 512 KiB of them.
///
/// Kept are complete answers without error that have at least one record of the type asked for,
/// and records that all live for five seconds or more. Errors and empty answers are not kept:
/// a name that has just been made should be found at once.
#[derive(Debug)]
pub struct Cache {
    entries: LruCache<Key, Entry>,
    bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    name: Name,
    rtype: RecordType,
    flavour: [u8; 3],
}

#[derive(Clone, Debug)]
struct Entry {
    message: Vec<u8>,
    received: Instant,
    lifetime: Duration,
}

impl Default for Cache {
    fn default() -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0 }
    }
}

impl Cache {
    /// The answer to the query, with the TTLs that are left.
    pub fn answer(&mut self, query: &Query, now: Instant) -> Option<Vec<u8>> {
        let key = Key::of(query)?;
        let entry = self.entries.get(&key)?;
        let age = now.saturating_duration_since(entry.received);
        if age >= entry.lifetime {
            self.remove(&key);
            return None;
        }

        let mut message = entry.message.clone();
        put_u16(&mut message, 0, query.id());
        // The names are equal but for their case, so they are equally long.
        let question = query.question();
        message[HEADER_LEN..HEADER_LEN + question.len()].copy_from_slice(question);
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for record in Records::new(&entry.message, Question::parse(&entry.message).ok()?) {
            let record = record.ok()?;
            if record.rtype != TYPE_OPT {
                let left = record.ttl.min(MAX_TTL).saturating_sub(age);
                message[record.ttl_at..record.ttl_at + 4].copy_from_slice(&left.to_be_bytes());
            }
        }
        Some(message)
    }

    /// Keeps the answer to the query, if it is worth keeping.
    pub fn insert(&mut self, query: &Query, answer: &[u8], now: Instant) {
        let Some(key) = Key::of(query) else { return };
        let Some(ttl) = lifetime(query, answer) else { return };

        self.remove(&key);
        self.bytes += answer.len();
        let lifetime = Duration::from_secs(ttl.into());
        self.entries.put(key, Entry { message: answer.to_vec(), received: now, lifetime });
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            let Some((_, evicted)) = self.entries.pop_lru() else { return };
            self.bytes -= evicted.message.len();
        }
    }

    /// Forgets everything: other servers or other resources may lead to other answers.
    pub fn flush(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.pop(key) {
            self.bytes -= entry.message.len();
        }
    }
}

impl Key {
    fn of(query: &Query) -> Option<Self> {
        let name = query.name().filter(|_| query.is_lookup())?.clone();
        Some(Self { name, rtype: query.record_type(), flavour: query.flavour() })
    }
}

/// How many seconds the answer may be kept; `None` if it isn't worth it.
fn lifetime(query: &Query, answer: &[u8]) -> Option<u32> {
    let question = Question::parse(answer).ok()?;
    let same_question = answer[HEADER_LEN..question.end].eq_ignore_ascii_case(query.question());
    let is_success = answer[2] & TC == 0 && answer[3] & RCODE == 0;
    if !same_question || !is_success || answer.len() > MAX_MESSAGE_LEN {
        return None;
    }

    let mut answers_question = false;
    let mut shortest = MAX_TTL;
    for record in Records::new(answer, question) {
        let record = record.ok()?;
        if record.rtype == TYPE_OPT {
            // The upper bits of the code, or options, which are between two parties (cookies).
            if record.ttl >> 24 != 0 || !record.data.is_empty() {
                return None;
            }
            continue;
        }
        answers_question |= record.section == Section::Answer && record.rtype == question.rtype;
        // RFC 2181 §8: a TTL with the highest bit set means zero.
        let ttl = if record.ttl > i32::MAX as u32 { 0 } else { record.ttl };
        shortest = shortest.min(ttl);
    }
    (answers_question && shortest >= MIN_TTL).then_some(shortest)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, Message, ResponseCode};
    use hickory_proto::rr::rdata::opt::EdnsOption;
    use hickory_proto::rr::rdata::{CNAME, TXT};
    use hickory_proto::rr::{Name as HickoryName, RData, Record};

    use super::*;
    use crate::query::tests::{message, query};
    use crate::response::tests::response;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn ttls(message: &[u8]) -> Vec<u32> {
        Message::from_vec(message).unwrap().answers.iter().map(|r| r.ttl).collect()
    }

    #[test]
    fn ttls_count_down_to_the_end() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let query = query("example.com.", RecordType::A);
        let mut answer = response(1, "example.com.", 60);
        answer.add_additional(Record::from_rdata(
            HickoryName::from_ascii("b.example.").unwrap(),
            3600,
            RData::TXT(TXT::new(vec!["x".to_owned()])),
        ));
        cache.insert(&query, &answer.to_vec().unwrap(), start);

        for (age, left) in [(0, 60), (1, 59), (59, 1)] {
            let hit = cache.answer(&query, start + seconds(age)).unwrap();
            assert_eq!(ttls(&hit), [left]);
            let additional = &Message::from_vec(&hit).unwrap().additionals[0];
            assert_eq!(additional.ttl, 3600 - u32::try_from(age).unwrap());
        }
        assert!(cache.answer(&query, start + Duration::from_millis(59_999)).is_some());
        assert_eq!(cache.answer(&query, start + seconds(60)), None);
        assert_eq!((cache.entries.len(), cache.bytes), (0, 0));
    }

    #[test]
    fn a_hit_has_the_id_and_the_spelling_of_its_query() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let answer = response(1, "example.com.", 60).to_vec().unwrap();
        cache.insert(&query("example.com.", RecordType::A), &answer, now);
        let asked = message(0xbeef, "EXAMPLE.com.", RecordType::A).to_vec().unwrap();
        let hit = cache.answer(&Query::parse(&asked).unwrap(), now).unwrap();
        let hit = Message::from_vec(&hit).unwrap();
        assert_eq!(hit.metadata.id, 0xbeef);
        assert_eq!(hit.queries[0].name.to_ascii(), "EXAMPLE.com.");
        assert_eq!(hit.answers[0].name.to_ascii(), "EXAMPLE.com.");
    }

    #[test]
    fn other_questions_miss() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let answer = response(1, "example.com.", 60).to_vec().unwrap();
        cache.insert(&query("example.com.", RecordType::A), &answer, now);
        assert_eq!(cache.answer(&query("example.com.", RecordType::AAAA), now), None);
        assert_eq!(cache.answer(&query("a.example.com.", RecordType::A), now), None);
        let mut dnssec = message(1, "example.com.", RecordType::A);
        dnssec.set_edns(Edns::new());
        let plain_edns = Query::parse(&dnssec.to_vec().unwrap()).unwrap();
        assert_eq!(cache.answer(&plain_edns, now), None, "it must be answered with EDNS");
        dnssec.edns.as_mut().unwrap().set_dnssec_ok(true);
        let with_signatures = Query::parse(&dnssec.to_vec().unwrap()).unwrap();
        assert_ne!(plain_edns.flavour(), with_signatures.flavour());
        dnssec.metadata.checking_disabled = true;
        let unchecked = Query::parse(&dnssec.to_vec().unwrap()).unwrap();
        assert_ne!(unchecked.flavour(), with_signatures.flavour());
        cache.flush();
        assert_eq!(cache.answer(&query("example.com.", RecordType::A), now), None);
    }

    #[test]
    fn keeps_only_what_is_worth_it() {
        let change = |change: fn(&mut Message)| {
            let mut answer = response(1, "example.com.", 60);
            change(&mut answer);
            answer
        };
        let alias = |ttl: u32| {
            let (from, to) = ("example.com.", "b.example.");
            let [from, to] = [from, to].map(|n| HickoryName::from_ascii(n).unwrap());
            Record::from_rdata(from, ttl, RData::CNAME(CNAME(to)))
        };
        let mut short_alias = response(1, "example.com.", 60);
        short_alias.answers.insert(0, alias(2));
        let mut alias_alone = response(1, "example.com.", 60);
        alias_alone.answers = vec![alias(60)];
        for (what, answer, kept) in [
            ("plain", response(1, "example.com.", 60), true),
            ("just long enough", response(1, "example.com.", 5), true),
            ("too short", response(1, "example.com.", 4), false),
            ("negative TTL", response(1, "example.com.", 0x8000_0001), false),
            ("short alias", short_alias, false),
            ("alias alone", alias_alone, false),
            ("another name", response(1, "example.org.", 60), false),
            ("truncated", change(|m| m.metadata.truncation = true), false),
            ("error", change(|m| m.metadata.response_code = ResponseCode::NXDomain), false),
            ("empty", change(|m| m.answers.clear()), false),
            ("edns", change(|m| m.edns = Some(Edns::new())), true),
            (
                "extended error",
                change(|m| {
                    m.set_edns(Edns::new());
                    m.metadata.response_code = ResponseCode::BADVERS;
                }),
                false,
            ),
            (
                "options",
                change(|m| {
                    let mut edns = Edns::new();
                    edns.options_mut().insert(EdnsOption::Unknown(10, vec![0; 8]));
                    m.set_edns(edns);
                }),
                false,
            ),
        ] {
            let (mut cache, now) = (Cache::default(), Instant::now());
            let query = query("example.com.", RecordType::A);
            cache.insert(&query, &answer.to_vec().unwrap(), now);
            assert_eq!(cache.answer(&query, now).is_some(), kept, "{what}");
        }
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let name = |n: usize| format!("n{n}.example.com.");
        let insert = |cache: &mut Cache, n: usize| {
            let answer = response(1, &name(n), 60).to_vec().unwrap();
            cache.insert(&query(&name(n), RecordType::A), &answer, now);
        };
        for n in 0..MAX_ENTRIES {
            insert(&mut cache, n);
        }
        assert!(cache.answer(&query(&name(0), RecordType::A), now).is_some());
        insert(&mut cache, MAX_ENTRIES);
        assert!(cache.answer(&query(&name(0), RecordType::A), now).is_some());
        assert!(cache.answer(&query(&name(1), RecordType::A), now).is_none());
        assert_eq!(cache.entries.len(), MAX_ENTRIES);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for n in 0..200 {
            let name = format!("n{n}.example.com.");
            let mut answer = response(1, &name, 60);
            for _ in 0..30 {
                let text = RData::TXT(TXT::new(vec!["x".repeat(200)]));
                let name = HickoryName::from_ascii(&name).unwrap();
                answer.add_additional(Record::from_rdata(name, 60, text));
            }
            let query = query(&name, RecordType::A);
            let answer = answer.to_vec().unwrap();
            cache.insert(&query, &answer, now);
            cache.insert(&query, &answer, now);
        }
        let held: usize = cache.entries.iter().map(|(_, e)| e.message.len()).sum();
        assert_eq!(held, cache.bytes);
        assert!(held <= MAX_BYTES && cache.entries.len() > 50);
    }
}
