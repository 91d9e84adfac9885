//! Queries of apps, and the answers that we make up ourselves.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::name::Name;
use crate::wire::{
    AD, ANSWER_COUNT, CD, CLASS_IN, DNSSEC_OK, HEADER_LEN, Labels, MessageError, OPCODE, QR,
    Question, RA, RD, Record, Records, TYPE_OPT, push_opt, put_u16,
};

/// The longest query that is taken from an app, in bytes. Over UDP they are bounded by the MTU of
/// the tunnel; the rare long ones over TCP are signed updates.
pub const MAX_QUERY_LEN: usize = 4096;

/// The largest message to an app over UDP: an MTU of 1280 less the longest IPv4 header and UDP's.
pub const MAX_UDP_LEN: usize = 1280 - 60 - 8;

/// What a requestor without EDNS can take over UDP (RFC 1035 §4.2.1).
const MIN_UDP_LEN: usize = 512;

/// A query with exactly one question, kept as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    bytes: Vec<u8>,
    question_end: usize,
    name: Option<Name>,
    rtype: RecordType,
    class: u16,
    edns: Option<Edns>,
}

/// The parts of the OPT record (RFC 6891 §6.1.2) that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edns {
    /// Where the largest UDP payload stands in the message.
    payload_at: usize,
    payload: u16,
    dnssec_ok: bool,
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    ///
    /// If it is a response, has not exactly one question, is malformed or longer than
    /// [`MAX_QUERY_LEN`].
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MAX_QUERY_LEN {
            return Err(MessageError::TooLong(bytes.len()));
        }
        let question = Question::parse(bytes)?;
        if bytes[2] & QR != 0 {
            return Err(MessageError::NotAQuery);
        }
        let mut edns = None;
        for record in Records::new(bytes, question) {
            let record = record?;
            if record.rtype == TYPE_OPT {
                edns = Some(Edns::from(&record));
            }
        }
        Ok(Self {
            name: Name::from_labels(Labels(&bytes[HEADER_LEN..])).ok(),
            bytes: bytes.to_vec(),
            question_end: question.end,
            rtype: question.rtype.into(),
            class: question.class,
            edns,
        })
    }

    /// The id that the answer must carry.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    /// The name that is asked for; `None` for the root, and for names beyond the form of [`Name`].
    pub fn name(&self) -> Option<&Name> {
        self.name.as_ref()
    }

    /// The record type that is asked for.
    pub fn record_type(&self) -> RecordType {
        self.rtype
    }

    /// Whether this is an ordinary look-up of class IN: the only kind that is ever answered here.
    pub(crate) fn is_lookup(&self) -> bool {
        self.bytes[2] & OPCODE == 0 && self.class == CLASS_IN
    }

    /// The message as it came.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The question section, spelled as the app spelled it.
    pub(crate) fn question(&self) -> &[u8] {
        &self.bytes[HEADER_LEN..self.question_end]
    }

    /// All but the id. Queries that are equal in this get the same answer from a server.
    pub(crate) fn content(&self) -> &[u8] {
        &self.bytes[2..]
    }

    /// What besides name and type decides which answer fits: the bits RD, AD and CD, whether the
    /// app knows EDNS and whether it wants DNSSEC.
    pub(crate) fn flavour(&self) -> [u8; 3] {
        let edns = self.edns.map_or(0, |edns| 1 + u8::from(edns.dnssec_ok));
        [self.bytes[2] & RD, self.bytes[3] & (AD | CD), edns]
    }

    /// The longest answer that may be sent over UDP. What the app offers is honoured up to
    /// [`MAX_UDP_LEN`], as anything longer wouldn't fit through the tunnel's interface.
    pub fn udp_limit(&self) -> usize {
        let offer = self.edns.map_or(0, |edns| edns.payload.into());
        offer.clamp(MIN_UDP_LEN, MAX_UDP_LEN)
    }

    /// The query as it goes to a server, under another id. Over UDP it never offers to take more
    /// than could be passed on to the app.
    pub(crate) fn to_upstream(&self, id: u16, udp: bool) -> Vec<u8> {
        let mut message = self.bytes.clone();
        put_u16(&mut message, 0, id);
        if let Some(edns) = self.edns.filter(|edns| udp && edns.payload > MAX_UDP_LEN as u16) {
            put_u16(&mut message, edns.payload_at, MAX_UDP_LEN as u16);
        }
        message
    }

    /// An answer with those of the addresses that are of the type asked for.
    pub fn answer_addresses(&self, addresses: &[IpAddr], ttl: u32) -> Vec<u8> {
        let data = addresses.iter().filter_map(|address| match (self.rtype, address) {
            (RecordType::A, IpAddr::V4(v4)) => Some(v4.octets().to_vec()),
            (RecordType::AAAA, IpAddr::V6(v6)) => Some(v6.octets().to_vec()),
            _ => None,
        });
        self.answer(ResponseCode::NoError, data, ttl)
    }

    /// An answer to a reverse look-up.
    pub fn answer_ptr(&self, name: &Name, ttl: u32) -> Vec<u8> {
        self.answer(ResponseCode::NoError, [name.to_wire()], ttl)
    }

    /// An answer without records. `NoError` says that the name exists without such records.
    pub fn answer_empty(&self, code: ResponseCode) -> Vec<u8> {
        self.answer(code, [], 0)
    }

    /// The question is repeated bit by bit: some apps check its spelling. Records are of the type
    /// asked for, and owned by the name asked for.
    fn answer(
        &self,
        code: ResponseCode,
        records: impl IntoIterator<Item = Vec<u8>>,
        ttl: u32,
    ) -> Vec<u8> {
        const POINTER_TO_QUESTION: u16 = 0xc000 | HEADER_LEN as u16;

        let mut message = self.bytes[..self.question_end].to_vec();
        message[2] = QR | message[2] & (OPCODE | RD);
        // The code is one of the few that need no EDNS to be expressed.
        message[3] = RA | self.bytes[3] & CD | code.low();
        message[ANSWER_COUNT..HEADER_LEN].fill(0);

        let mut count = 0;
        for data in records {
            count += 1;
            message.extend(POINTER_TO_QUESTION.to_be_bytes());
            message.extend(u16::from(self.rtype).to_be_bytes());
            message.extend(CLASS_IN.to_be_bytes());
            message.extend(ttl.to_be_bytes());
            // INVARIANT: an address or a name, at most 255 bytes long.
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(data);
        }
        put_u16(&mut message, ANSWER_COUNT, count);
        // RFC 6891 §6.1.1: who asks with OPT is answered with OPT.
        if let Some(edns) = self.edns {
            push_opt(&mut message, MAX_UDP_LEN as u16, edns.dnssec_ok);
        }
        message
    }
}

impl From<&Record> for Edns {
    fn from(record: &Record) -> Self {
        Self {
            payload_at: record.ttl_at - 2,
            payload: record.class,
            dnssec_ok: record.ttl & DNSSEC_OK != 0,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use hickory_proto::op::{Edns as HickoryEdns, Message, MessageType, OpCode, Query as Asked};
    use hickory_proto::rr::{DNSClass, Name as HickoryName, RData};

    use super::*;
    use crate::wire::RCODE;

    /// A query for `name`, encoded by somebody else.
    pub(crate) fn message(id: u16, name: &str, rtype: RecordType) -> Message {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Asked::query(HickoryName::from_ascii(name).unwrap(), rtype));
        message
    }

    pub(crate) fn query(name: &str, rtype: RecordType) -> Query {
        Query::parse(&message(0x1234, name, rtype).to_vec().unwrap()).unwrap()
    }

    fn with_edns(payload: u16, dnssec_ok: bool) -> Message {
        let mut message = message(7, "example.com.", RecordType::A);
        let mut edns = HickoryEdns::new();
        edns.set_max_payload(payload).set_dnssec_ok(dnssec_ok);
        message.set_edns(edns);
        message
    }

    #[test]
    fn reads_the_question() {
        let query = query("WWW.Example.com.", RecordType::AAAA);
        assert_eq!(query.id(), 0x1234);
        assert_eq!(query.name().unwrap().as_str(), "www.example.com");
        assert_eq!(query.record_type(), RecordType::AAAA);
        assert!(query.is_lookup());
        assert_eq!(query.udp_limit(), 512);
    }

    #[test]
    fn names_beyond_ours_are_no_error() {
        let mut bytes = message(1, "a-b.example.", RecordType::A).to_vec().unwrap();
        bytes[HEADER_LEN + 2] = 0xfc;
        assert_eq!(Query::parse(&bytes).unwrap().name(), None);
        let root = message(1, ".", RecordType::NS).to_vec().unwrap();
        assert_eq!(Query::parse(&root).unwrap().name(), None);
    }

    #[test]
    fn refuses_what_is_no_single_query() {
        let good = message(1, "example.com.", RecordType::A).to_vec().unwrap();
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        for (bytes, error) in [
            (vec![], MessageError::TooShort),
            (good[..11].to_vec(), MessageError::TooShort),
            (good[..12].to_vec(), MessageError::BadQuestion),
            (good[..good.len() - 1].to_vec(), MessageError::BadQuestion),
            (changed(2, 0x81), MessageError::NotAQuery),
            (changed(5, 0), MessageError::QuestionCount(0)),
            (changed(5, 2), MessageError::QuestionCount(2)),
            (changed(12, 0xc0), MessageError::BadQuestion),
            (changed(12, 0x40), MessageError::BadQuestion),
            (changed(12, 63), MessageError::BadQuestion),
            (changed(11, 1), MessageError::BadRecord),
            (vec![0; MAX_QUERY_LEN + 1], MessageError::TooLong(MAX_QUERY_LEN + 1)),
        ] {
            assert_eq!(Query::parse(&bytes), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn names_of_more_than_255_bytes_are_refused() {
        let mut bytes = message(1, ".", RecordType::A).to_vec().unwrap()[..HEADER_LEN].to_vec();
        for _ in 0..127 {
            bytes.extend([1, b'a']);
        }
        let tail = [0, 0, 1, 0, 1];
        assert!(Query::parse(&[bytes.as_slice(), &tail].concat()).unwrap().name().is_some());
        bytes.extend([1, b'a']);
        let error = Query::parse(&[bytes.as_slice(), &tail].concat());
        assert_eq!(error, Err(MessageError::BadQuestion));
    }

    #[test]
    fn only_lookups_of_class_in_are_ours() {
        let mut chaos = message(1, "version.bind.", RecordType::TXT);
        chaos.queries[0].query_class = DNSClass::CH;
        assert!(!Query::parse(&chaos.to_vec().unwrap()).unwrap().is_lookup());
        let mut update = message(1, "example.com.", RecordType::SOA);
        update.metadata.op_code = OpCode::Update;
        assert!(!Query::parse(&update.to_vec().unwrap()).unwrap().is_lookup());
    }

    #[test]
    fn answers_are_what_another_implementation_reads() {
        let query = query("Web.Example.com.", RecordType::A);
        let addresses: [IpAddr; 3] =
            ["100.96.0.1", "fd00::1", "100.96.0.2"].map(|a| a.parse().unwrap());
        let answer = Message::from_vec(&query.answer_addresses(&addresses, 1)).unwrap();
        assert_eq!(answer.metadata.id, 0x1234);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
        assert!(!answer.metadata.truncation && !answer.metadata.authoritative);
        assert!(
            answer.queries[0].name.eq_case(&HickoryName::from_ascii("Web.Example.com.").unwrap())
        );
        let records: Vec<_> =
            answer.answers.iter().map(|r| (r.name.to_ascii(), r.ttl, r.data.to_string())).collect();
        let owner = || "Web.Example.com.".to_owned();
        assert_eq!(
            records,
            [(owner(), 1, "100.96.0.1".to_owned()), (owner(), 1, "100.96.0.2".to_owned())]
        );
        assert!(answer.edns.is_none());
    }

    #[test]
    fn answers_repeat_no_flags_that_are_not_theirs() {
        let mut bytes = message(1, "example.com.", RecordType::A).to_vec().unwrap();
        // AA and TC mean nothing in a query; RD and CD are to be repeated.
        bytes[2] |= 0x06;
        bytes[3] = !RCODE;
        let answer = Query::parse(&bytes).unwrap().answer_empty(ResponseCode::NXDomain);
        assert_eq!(answer[2..4], [QR | RD, RA | CD | 3]);
    }

    #[test]
    fn reverse_and_empty_answers() {
        let reverse = query("1.0.96.100.in-addr.arpa.", RecordType::PTR);
        let answer = reverse.answer_ptr(&"web.example.com".parse().unwrap(), 1);
        let answer = Message::from_vec(&answer).unwrap();
        let RData::PTR(target) = &answer.answers[0].data else { panic!("no PTR: {answer}") };
        assert_eq!(target.0.to_ascii(), "web.example.com.");

        for code in [ResponseCode::NoError, ResponseCode::NXDomain, ResponseCode::ServFail] {
            let answer = Message::from_vec(&reverse.answer_empty(code)).unwrap();
            assert_eq!(answer.metadata.response_code, code);
            assert_eq!(answer.queries.len(), 1);
            assert!(answer.answers.is_empty());
        }
    }

    #[test]
    fn edns_is_answered_with_edns_and_bounds_the_size() {
        for (offer, limit) in [(0, 512), (512, 512), (1000, 1000), (1212, 1212), (4096, 1212)] {
            let mut bytes = with_edns(offer, true).to_vec().unwrap();
            // hickory raises small offers to 512 when it encodes.
            let payload_at = bytes.len() - 8;
            put_u16(&mut bytes, payload_at, offer);
            let query = Query::parse(&bytes).unwrap();
            assert_eq!(query.udp_limit(), limit);
            let answer = Message::from_vec(&query.answer_addresses(&[], 1)).unwrap();
            let edns = answer.edns.unwrap();
            assert!(edns.flags().dnssec_ok);
            assert_eq!(usize::from(edns.max_payload()), MAX_UDP_LEN);
        }
    }

    #[test]
    fn upstream_is_asked_for_no_more_than_fits() {
        let query = Query::parse(&with_edns(4096, false).to_vec().unwrap()).unwrap();
        let sent = Message::from_vec(&query.to_upstream(99, true)).unwrap();
        assert_eq!((sent.metadata.id, sent.max_payload()), (99, 1212));
        let sent = Message::from_vec(&query.to_upstream(99, false)).unwrap();
        assert_eq!(sent.max_payload(), 4096);
        let modest = Query::parse(&with_edns(900, false).to_vec().unwrap()).unwrap();
        assert_eq!(Message::from_vec(&modest.to_upstream(1, true)).unwrap().max_payload(), 900);
    }
}
